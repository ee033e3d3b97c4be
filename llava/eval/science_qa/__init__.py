"""ScienceQA: its dataset, its prompts, its marks and its nine columns."""
