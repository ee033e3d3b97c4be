"""What is asked of a generation and what comes back, as plain values that need no PyTorch."""
