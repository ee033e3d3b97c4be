"""The ids that tie a request's traces together over all services: our request id, and W3C's `traceparent`."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

REQUEST_ID_HEADER: Final = "x-request-id"
TRACEPARENT_HEADER: Final = "traceparent"

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Trace:
    """One request, as logs and other services know it."""

    request_id: str
    trace_id: str
    flags: str = "00"
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def continued(cls, request_id: str | None, traceparent: str | None) -> Trace:
        """From the headers of a request; what is missing or malformed is made anew."""
        known = request_id if request_id and _REQUEST_ID.fullmatch(request_id) else f"req-{secrets.token_hex(12)}"
        parent = _TRACEPARENT.fullmatch(traceparent or "")
        if parent is None:
            return cls(known, secrets.token_hex(16))
        return cls(known, parent[1], parent[3])

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


_current: ContextVar[Trace | None] = ContextVar("llava_trace", default=None)


def set_trace(trace: Trace) -> None:
    """Makes `trace` that of the running task and of those that it starts."""
    _current.set(trace)


def request_id() -> str:
    """The id of the request that is being answered; empty outside of one."""
    trace = _current.get()
    return trace.request_id if trace else ""


def outgoing_headers() -> dict[str, str]:
    """What a call to the next service takes along, so that its logs can be joined with ours."""
    trace = _current.get()
    return {REQUEST_ID_HEADER: trace.request_id, TRACEPARENT_HEADER: trace.traceparent} if trace else {}
