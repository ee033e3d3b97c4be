"""Runs of evaluators side by side, as one page: figures with intervals, plots, and every answer beside its image."""
