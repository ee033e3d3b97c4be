"""Turns the flags of a training run into its model, data and optimizer."""
