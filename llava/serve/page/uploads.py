"""Reads what a user typed and uploaded."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from llava.errors import InvalidRequest
from llava.serve.client.images import ChatImage, read_image

MAX_TEXT_CHARACTERS: Final = 100_000
"""Longest message that is passed on. A model's own limit is far lower, and its error gives the numbers."""


async def read_message(message: dict[str, Any]) -> tuple[str, tuple[ChatImage, ...]]:
    """Returns text and images of a message.

    Args:
        message: the value of the message box: `text` and the paths of `files`.

    Raises:
        InvalidRequest: the text is too long.
        ImageError: an image cannot be read.
    """
    text = str(message.get("text") or "")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidRequest(f"the message has {len(text)} characters; the limit is {MAX_TEXT_CHARACTERS}.")
    files = [str(file) for file in message.get("files") or ()]
    return text, tuple(await asyncio.gather(*(asyncio.to_thread(read_image, file) for file in files)))
