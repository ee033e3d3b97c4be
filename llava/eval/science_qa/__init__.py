"""Reads, asks and marks ScienceQA: its data set, its prompts, its marks and its nine columns."""
