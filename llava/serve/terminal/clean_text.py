"""Text from elsewhere (models, servers, files, pasted input) made safe to print and to send."""

from __future__ import annotations

import re
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and line feed: a terminal obeys the others, so an answer could move its cursor or set its title."""
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without what a terminal would take as a command."""
    return _CONTROL.sub("", well_formed(text))


def well_formed(text: str) -> str:
    """The text with a replacement character for each half of a character, which no file or request can hold."""
    return _SURROGATE.sub("\ufffd", text.replace("\r\n", "\n"))
