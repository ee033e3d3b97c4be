"""Asks a model the questions of a benchmark and saves its answers."""
