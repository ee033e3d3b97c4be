"""Calls a hosted model as a judge, with its settings, costs, limits and batches."""
