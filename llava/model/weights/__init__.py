"""Reads and writes weight files one tensor at a time: checkpoints, deltas, adapters, LoRA."""
