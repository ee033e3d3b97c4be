"""To the format of transformers' own LLaVA, and back."""
