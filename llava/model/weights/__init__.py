"""Weight files, read and written one tensor at a time: checkpoints, deltas, adapters, LoRA."""
