"""Decodes images that arrive as text: data URIs and bare base64.

Clients declare wrong types, drop padding, break lines and percent-encode; browsers read all of that, and so does this.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from typing import Final

from llava.errors import ImageDamaged, ImageTooLarge
from llava.images.formats import readable_bytes

_URL_ALPHABET: Final = str.maketrans("-_", "+/")


def is_data_uri(text: str) -> bool:
    """Returns whether text is a data URI, blanks before it aside."""
    return text.lstrip()[:5].lower() == "data:"


def read_data_uri(uri: str, name: str, max_bytes: int) -> bytes:
    """Returns the bytes of a data URI. What it declares about them is ignored: the bytes say what they are.

    Args:
        uri: the data URI, in base64 or percent-encoded.
        name: name of the image in error messages.
        max_bytes: largest number of bytes, checked before decoding.

    Raises:
        ImageDamaged: not a data URI, or not valid base64.
        ImageTooLarge: more bytes than allowed.
    """
    head, comma, body = uri.strip().partition(",")
    if not comma:
        raise ImageDamaged(f"{name}: there is no comma between header and data. Write data:image/png;base64,<data>.")
    if re.search(r";\s*base64\s*$", head, re.IGNORECASE):
        return read_base64(body, name, max_bytes)
    check_bytes(len(body) // 3, name, max_bytes)  # at most three characters a byte
    return urllib.parse.unquote_to_bytes(body)


def read_base64(text: str, name: str, max_bytes: int) -> bytes:
    """Returns the bytes of base64 text of either alphabet, with or without padding, blanks, line ends and `%2B`.

    Args:
        text: the base64 text.
        name: name of the image in error messages.
        max_bytes: largest number of bytes, checked before decoding.

    Raises:
        ImageDamaged: not valid base64; the message has the character at fault.
        ImageTooLarge: more bytes than allowed.
    """
    if "%" in text:
        # A text that is too long even if every character is percent-encoded is not decoded to find out.
        check_bytes(len(text) // 4 - 2, name, max_bytes)
        text = urllib.parse.unquote(text)
    check_bytes(len(text) * 3 // 4 - 2 - text.count("\n") - text.count("\r"), name, max_bytes)
    text = re.sub(r"\s+", "", text).rstrip("=").translate(_URL_ALPHABET)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        wrong = re.search(r"[^A-Za-z0-9+/]", text)
        where = f"character {wrong[0]!a} at position {wrong.start()}" if wrong else "the length is wrong"
        raise ImageDamaged(f"{name}: not valid base64 ({where}).") from error


def check_bytes(count: int, name: str, max_bytes: int) -> None:
    """Raises `ImageTooLarge` if an image has more bytes than allowed."""
    if count > max_bytes:
        raise ImageTooLarge(
            f"{name}: {readable_bytes(count)}, the limit is {readable_bytes(max_bytes)}. Compress or resize it."
        )
