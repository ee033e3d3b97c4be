"""What the web page and the terminal chat share."""
