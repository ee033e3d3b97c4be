"""How our front ends put what an error says."""

from __future__ import annotations

import re
from typing import Final

_PLAIN_WORD: Final = re.compile(r"[a-z]+(?=[ ,])")


def sentence(text: str) -> str:
    """An error's message as a reader expects it, with a capital letter; a file or an address at its start stays."""
    return text[:1].upper() + text[1:] if _PLAIN_WORD.match(text) else text
