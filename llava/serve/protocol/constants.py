"""Constants of the protocols that clients need, too. Importing them costs nothing."""

from __future__ import annotations

from typing import Final

API_KEY_VARIABLE: Final = "LLAVA_API_KEY"
"""Environment variable with the API key that a service asks for and that a client sends."""
MAX_IMAGES: Final = 16
"""Maximum number of images in one request."""
