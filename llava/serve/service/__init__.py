"""Holds what all HTTP services share: access control, limits, metrics, logs, start-up and shutdown."""
