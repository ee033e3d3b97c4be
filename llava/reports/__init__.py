"""Builds reports: documents of sections, tables and notes, the forms they are rendered in, and their plots."""
