"""Carries the ids that tie the traces of a request together across services: a request id and W3C's `traceparent`."""

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
    """The ids of one request."""

    request_id: str
    """The id in logs and error messages."""
    trace_id: str
    """W3C trace id, shared by all services that handle the request; 32 hexadecimal digits."""
    flags: str = "00"
    """W3C trace flags, passed on unchanged."""
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """W3C span id of this service's part; 16 hexadecimal digits."""

    @classmethod
    def continued(cls, request_id: str | None, traceparent: str | None) -> Trace:
        """Continues the trace in a request's headers. A missing or malformed id is replaced by a new one."""
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
    """Makes `trace` the trace of the running task and of the tasks that it starts."""
    _current.set(trace)


def request_id() -> str:
    """Returns the id of the request being answered, or an empty string outside of one."""
    trace = _current.get()
    return trace.request_id if trace else ""


def outgoing_headers() -> dict[str, str]:
    """Returns the headers that continue this trace at the next service."""
    trace = _current.get()
    return {REQUEST_ID_HEADER: trace.request_id, TRACEPARENT_HEADER: trace.traceparent} if trace else {}
