"""Reads and writes JSON and JSON Lines files."""
