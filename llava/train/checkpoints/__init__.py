"""Saves and resumes training runs."""
