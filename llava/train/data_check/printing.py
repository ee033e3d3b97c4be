"""Makes text of a training file safe to print."""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    """Returns the text with escapes in place of what a terminal would obey or cannot show.

    Args:
        keep: characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1] for character in text
    )
