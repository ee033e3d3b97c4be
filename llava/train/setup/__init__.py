"""From the flags of a training run to its model, data and optimizer."""
