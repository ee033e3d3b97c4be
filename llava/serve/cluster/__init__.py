"""Implements the controller: which workers exist, and how a request reaches one of them."""
