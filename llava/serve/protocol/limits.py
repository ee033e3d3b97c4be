"""Defines how large a request may be, in either protocol."""

from __future__ import annotations

from typing import Final

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
