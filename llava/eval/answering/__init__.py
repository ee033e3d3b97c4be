"""Asks a model the questions of a benchmark and keeps its answers."""
