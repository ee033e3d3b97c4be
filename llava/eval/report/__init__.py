"""Shows runs of evaluators side by side: figures with intervals, plots, and every answer beside its image."""
