"""Reads images from files, data and URLs."""
