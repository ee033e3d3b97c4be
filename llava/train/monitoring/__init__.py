"""Watches a run: counts of samples, metrics, progress and guards."""
