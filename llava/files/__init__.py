"""JSON and JSON Lines files, written whole or not at all."""
