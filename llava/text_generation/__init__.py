"""Holds the plain values of text generation: settings, answer events, decoding and stop texts."""
