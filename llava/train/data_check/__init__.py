"""Checks training data for `llava data check`."""
