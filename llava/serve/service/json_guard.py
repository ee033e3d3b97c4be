"""Bounds the nesting and the number of values of JSON before it is parsed, at the cost of a few text searches."""

from __future__ import annotations

import re
from typing import Final

from llava.errors import RequestTooLarge

_BRACKET: Final = re.compile(rb"[\[\]{}]")


def check_json(body: bytes, *, max_depth: int, max_values: int) -> None:
    """Refuses a body that would be too expensive to parse. Whether it is valid JSON is left to the parser.

    Raises:
        RequestTooLarge: the body is nested too deeply or has too many values.
    """
    too_many = RequestTooLarge(f"the request has more than {max_values} values. Send fewer at once.")
    # Without escapes, every remaining quote begins or ends a string. All of this runs at the speed of a text search,
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
