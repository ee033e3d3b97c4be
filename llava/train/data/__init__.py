"""Turns conversation records into training batches."""
