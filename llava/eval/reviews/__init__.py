"""Asks a judge for reviews of answers, and logs, reads and summarizes them."""
