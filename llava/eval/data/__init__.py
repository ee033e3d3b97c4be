"""Reads and writes files of questions and answers."""
