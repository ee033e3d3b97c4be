"""Measures JSON before anything parses it: nesting and number of values, at the cost of a few searches."""

from __future__ import annotations

import re
from typing import Final

from llava.errors import RequestTooLarge

_BRACKET: Final = re.compile(rb"[\[\]{}]")


def check_json(body: bytes, *, max_depth: int, max_values: int) -> None:
    """Refuses what would cost a parser too much. Whether it is JSON at all, the parser will say.

    Raises:
        RequestTooLarge: deeper or with more values than allowed.
    """
    too_many = RequestTooLarge(f"the request has more than {max_values} values. Send less at once.")
    # Without its escapes, every quote that is left begins or ends a string. All of this runs at the speed of a search,
    # and nothing is split into more pieces than the limit allows.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * max_values:
        raise too_many
    outside = b"".join(plain.split(b'"')[::2])
    openings = outside.count(b"[") + outside.count(b"{")
    closings = outside.count(b"]") + outside.count(b"}")
    if max(outside.count(b",") + openings, closings) > max_values:
        raise too_many
    depth = 0
    for bracket in _BRACKET.finditer(outside):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > max_depth:
            raise RequestTooLarge(f"the request is nested more than {max_depth} levels deep.")
