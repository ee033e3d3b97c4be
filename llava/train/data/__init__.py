"""From conversation records to the batches that train a model."""
