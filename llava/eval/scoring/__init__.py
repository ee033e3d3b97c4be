"""Scores answers and estimates the uncertainty of the figures."""
