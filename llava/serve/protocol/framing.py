"""Describes how streams are divided: where they may be cut, when they are complete, and how they report a failure.

The controller passes streams on without reading what is in them.
"""

from __future__ import annotations

import json
from typing import Final, Protocol

from llava.errors import LlavaError
from llava.serve.protocol.original import MAX_FRAME_BYTES, error_frame, openai_error

MAX_PIECE_BYTES: Final = MAX_FRAME_BYTES
"""Largest piece of a stream."""


class Framing(Protocol):
    """How a stream is divided into pieces."""

    def cut(self, data: bytes | bytearray) -> int:
        """Returns the number of leading bytes of `data` that form whole pieces."""

    def is_over(self, rest: bytes, last: bytes) -> bool:
        """Returns whether a stream that has ended was complete.

        Args:
            rest: the bytes after the last whole piece.
            last: the end of the whole pieces.
        """

    def failure(self, error: LlavaError, request_id: str) -> bytes:
        """Returns the piece that reports `error`."""


class NulFraming:
    """The original's streams: JSON objects, each followed by a NUL byte. Nothing marks the last one."""

    def cut(self, data: bytes | bytearray) -> int:
        return data.rfind(b"\0") + 1

    def is_over(self, rest: bytes, last: bytes) -> bool:
        return not rest and bool(last)

    def failure(self, error: LlavaError, request_id: str) -> bytes:
        return error_frame(error, request_id)


class EventFraming:
    """The server-sent events of OpenAI's API. The last event is `[DONE]` or an error."""

    def cut(self, data: bytes | bytearray) -> int:
        ends = ((data.rfind(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n"))
        return max(position + length if position >= 0 else 0 for position, length in ends)

    def is_over(self, rest: bytes, last: bytes) -> bool:
        event = (last + rest).replace(b"\r\n", b"\n").rstrip(b"\n").rpartition(b"\n\n")[2]
        return event.endswith(b"[DONE]") or event.startswith((b'data: {"error"', b'data:{"error"', b"event: error"))

    def failure(self, error: LlavaError, request_id: str) -> bytes:
        return b"data: " + json.dumps(openai_error(error, request_id)).encode() + b"\n\n"


class JsonBodyFraming:
    """One JSON object: an answer that is not streamed."""

    def cut(self, data: bytes | bytearray) -> int:
        return len(data)

    def is_over(self, rest: bytes, last: bytes) -> bool:
        return True

    def failure(self, error: LlavaError, request_id: str) -> bytes:
        return b""  # the length was announced, so the client notices that the rest is missing
