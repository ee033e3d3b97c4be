"""Trains one model in several processes: how it is sharded, loaded and gathered."""
