"""Reads server-sent events from a stream of bytes that the network cut anywhere, and the JSON that they carry."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final

from llava.errors import WorkerLost

MAX_LINE_BYTES: Final = 8 * 1024 * 1024


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The data of each event; comments and other fields are skipped.

    Lines end at a line feed only (and a carriage return before it): Unicode's line separators are part of the data.

    Raises:
        WorkerLost: a line longer than `MAX_LINE_BYTES`.
    """
    rest = bytearray()
    data: list[str] = []
    async for chunk in chunks:
        start = len(rest)
        rest += chunk
        begin = 0
        while (end := rest.find(b"\n", max(begin, start))) >= 0:
            line = bytes(rest[begin:end]).removesuffix(b"\r")
            begin = end + 1
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" ").decode(errors="replace"))
            elif not line and data:
                yield "\n".join(data)
                data = []
        del rest[:begin]
        if len(rest) > MAX_LINE_BYTES:
            raise WorkerLost(f"the server sends a line over {MAX_LINE_BYTES >> 20} MiB; that is no event stream.")
    if data:  # a last event without the empty line behind it
        yield "\n".join(data)


def json_or_none(data: str | bytes) -> Any:
    """The JSON value of an event, or of a whole answer; None where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
