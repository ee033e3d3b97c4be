"""Files of questions and answers, read and written."""
