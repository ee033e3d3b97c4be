"""Calls a hosted model as a judge: settings, price, limits, batches."""
