"""The kinds of stream that a controller passes on: where one may be cut, how it ends well, how a failure is said."""

from __future__ import annotations

import json
from typing import Final, Protocol

from llava.errors import LlavaError
from llava.serve.protocol.original import MAX_FRAME_BYTES, error_frame, openai_error

MAX_PIECE_BYTES: Final = MAX_FRAME_BYTES


class Framing(Protocol):
    """What is told apart here is never read: pieces pass as they came."""

    def cut(self, data: bytes | bytearray) -> int:
        """How many leading bytes of `data` are whole pieces."""

    def is_over(self, rest: bytes, last: bytes) -> bool:
        """Whether a stream that ended so was complete: `rest` after the last whole piece, `last` the end of those."""

    def failure(self, error: LlavaError, request_id: str) -> bytes:
        """The piece that reports `error`."""


class Frames:
    """The original's: JSON and a NUL byte. Nothing marks the last."""

    def cut(self, data: bytes | bytearray) -> int:
        return data.rfind(b"\0") + 1

    def is_over(self, rest: bytes, last: bytes) -> bool:
        return not rest and bool(last)

    def failure(self, error: LlavaError, request_id: str) -> bytes:
        return error_frame(error, request_id)


class Events:
    """Server-sent events of OpenAI's API, the last of them `[DONE]` or an error."""

    def cut(self, data: bytes | bytearray) -> int:
        ends = ((data.rfind(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n"))
        return max(position + length if position >= 0 else 0 for position, length in ends)

    def is_over(self, rest: bytes, last: bytes) -> bool:
        event = (last + rest).replace(b"\r\n", b"\n").rstrip(b"\n").rpartition(b"\n\n")[2]
        return event.endswith(b"[DONE]") or event.startswith((b'data: {"error"', b'data:{"error"', b"event: error"))

    def failure(self, error: LlavaError, request_id: str) -> bytes:
        return b"data: " + json.dumps(openai_error(error, request_id)).encode() + b"\n\n"


class Whole:
    """One JSON object: an answer that is not streamed."""

    def cut(self, data: bytes | bytearray) -> int:
        return len(data)

    def is_over(self, rest: bytes, last: bytes) -> bool:
        return True

    def failure(self, error: LlavaError, request_id: str) -> bytes:
        return b""  # the length was announced; the client sees that the rest is missing
