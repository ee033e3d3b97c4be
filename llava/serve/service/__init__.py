"""What every HTTP service shares: keys, limits, metrics, logs, start and stop."""
