"""Reads server-sent events from a stream of bytes that the network may cut anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from llava.errors import WorkerLost

MAX_LINE_BYTES: Final = 8 * 1024 * 1024


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Yields the data of each event; skips comments and all other fields.

    A line ends at a line feed, with or without a carriage return before it. Unicode's line separators are data.

    Raises:
        WorkerLost: a line is longer than `MAX_LINE_BYTES`.
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
            raise WorkerLost(f"the server sent a line of more than {MAX_LINE_BYTES >> 20} MiB: not an event stream.")
    if data:  # the last event, if the empty line after it is missing
        yield "\n".join(data)
