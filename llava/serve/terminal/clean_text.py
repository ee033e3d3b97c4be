"""Makes text from models, servers, files and the clipboard safe to print and to send."""

from __future__ import annotations

import re
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All control characters except tab and line feed. An answer could move the cursor with them."""
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


def printable(text: str) -> str:
    """Returns the text without the characters that a terminal would obey."""
    return _CONTROL.sub("", well_formed(text))


def well_formed(text: str) -> str:
    """Returns the text with a replacement character for each lone surrogate, which UTF-8 cannot encode."""
    return _SURROGATE.sub("\ufffd", text.replace("\r\n", "\n"))
