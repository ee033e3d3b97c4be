"""Defines constants of both protocols: the variable of the API key, and how large a request may be.

Clients need some of them too; importing this module costs nothing.
"""

from __future__ import annotations

from typing import Final

API_KEY_VARIABLE: Final = "LLAVA_API_KEY"
"""Environment variable with the API key that a service requires and that a client sends."""
MAX_CHOICES: Final = 8
"""Answers to one request."""
MAX_IMAGES: Final = 16
"""Images in one request."""
MAX_MESSAGES: Final = 1024
"""Messages in one request."""
MAX_STOPS: Final = 8
"""Stop texts in one request."""
MAX_TEXT_CHARACTERS: Final = 1_000_000
"""Characters of one prompt, message or message part. Far beyond any context, so that no book reaches the tokenizer."""
