"""LLaVA: the open large language-and-vision assistant."""

__version__ = "0.1.0"
