"""Marks answers and estimates what the marks are worth."""
