"""Knows all commands of the package: their table, shell completion, and the reference in docs/cli.md."""
