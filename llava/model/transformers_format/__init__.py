"""Converts a LLaVA to the format of transformers' own classes, and back."""
