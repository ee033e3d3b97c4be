"""Turns the flags of a command and a folder into a model in memory."""
