"""Holds the parts of a worker: its app, its backends, and how it answers."""
