"""Reads, selects, rates and ranks the votes of the arena."""
