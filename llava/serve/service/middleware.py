"""What every request to a service passes before it reaches a route, as plain ASGI: nothing here buffers an answer.

Outermost first: `Traced` (ids), `Logged` (one line a request, and the last resort for errors), `Gated` (draining, keys,
rates; nothing of the body is read for somebody who may not come in), `Bounded` (size, type and shape of the body).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava.errors import (
    Forbidden,
    LlavaError,
    RequestTimeout,
    RequestTooLarge,
    ShuttingDown,
    Unauthorized,
    UnsupportedMediaType,
)
from llava.serve.protocol.original import error_frame, openai_error, retry_after_header
from llava.serve.service.json_guard import check_json
from llava.serve.service.lifecycle import Lifecycle
from llava.serve.service.logs import fields
from llava.serve.service.rates import RateLimiter
from llava.serve.service.security import ApiKeys, ClusterToken, is_local
from llava.serve.service.tracing import REQUEST_ID_HEADER, TRACEPARENT_HEADER, Trace, request_id, set_trace

HEALTH_PATHS: Final = frozenset({"/health/live", "/health/ready"})
WATCHED_PATHS: Final = HEALTH_PATHS | {"/metrics"}
"""Answered also while the service drains, and counted neither as work nor as a caller's rate."""

Guard = Callable[[HTTPConnection], object]

access_log = logging.getLogger("llava.access")
logger = logging.getLogger("llava.serve")

_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MAX_DISCARDED_BYTES: Final = 64 * 1024 * 1024
_DISCARD_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost before a route sees it."""

    max_body_bytes: int = 20 * 1024 * 1024
    max_json_depth: int = 32
    max_json_values: int = 10_000
    """Numbers, strings, lists and objects, all levels together."""
    body_timeout_s: float = 60.0
    """For the whole body to arrive."""
    requests_per_minute: int = 0
    """A caller: an API key, or an IP address where there are no keys. 0 is no limit."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Who may come in, and in what shape a refusal is written."""

    keys: ApiKeys | None = None
    cluster_token: ClusterToken | None = None
    """Shown by a controller in place of an API key."""
    public_paths: frozenset[str] = HEALTH_PATHS
    guards: Mapping[str, Guard] = field(default_factory=dict)
    """Paths with a rule of their own, in place of keys: raises for those who may not come in."""
    frame_paths: frozenset[str] = field(default_factory=frozenset)
    """Routes whose errors are frames."""
    local_only: bool = False
    """There are no keys, and programs on other machines are not answered."""


def header_map(scope: Scope) -> Mapping[str, str]:
    """The headers by lower-case name; of a repeated one the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


class Traced:
    """Gives the request its ids, and the answer the request's."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = header_map(scope)
        trace = Trace.continued(headers.get(REQUEST_ID_HEADER), headers.get(TRACEPARENT_HEADER))
        set_trace(trace)

        async def traced_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-request-id"]
                ours = [(b"x-request-id", trace.request_id.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": kept + ours}
            await send(message)

        await self.app(scope, receive, traced_send)


class Logged:
    """Writes the line of the request, and answers what nobody else has answered."""

    def __init__(self, app: ASGIApp, doors: Doors):
        self.app, self.doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status, num_bytes = 0, 0

        async def counted_send(message: Message) -> None:
            nonlocal status, num_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, counted_send)
        except LlavaError as error:
            if status:
                raise
            await answer_error(error, scope, receive, counted_send, self.doors.frame_paths)
        except Exception:
            # As broad as can be, for nothing stands outside: whatever went wrong, a client gets an answer.
            # The traceback stays here: it may hold what a user sent.
            logger.exception("unexpected error in request %s", request_id())
            if status:
                raise
            unexpected = LlavaError(f"an unexpected error; the server's log tells more under {request_id()}.")
            await answer_error(unexpected, scope, receive, counted_send, self.doors.frame_paths)
        finally:
            self._log(scope, status, num_bytes, began)

    @staticmethod
    def _log(scope: Scope, status: int, num_bytes: int, began: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        level = logging.DEBUG if route in WATCHED_PATHS else logging.INFO
        if access_log.isEnabledFor(level):
            line = fields(
                method=scope["method"],
                route=route,
                status=status or "aborted",
                ms=(time.monotonic() - began) * 1000,
                bytes=num_bytes,
                caller=scope.get("llava.caller"),
                request_id=request_id(),
            )
            access_log.log(level, "%s", line)


class Gated:
    """Lets in who may come in, while anybody may."""

    def __init__(self, app: ASGIApp, doors: Doors, lifecycle: Lifecycle, rates: RateLimiter | None):
        self.app, self.doors, self.lifecycle, self.rates = app, doors, lifecycle, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        caller = self._caller(scope, path)
        scope["llava.caller"] = caller
        if path in WATCHED_PATHS:
            await self.app(scope, receive, send)
            return
        if self.lifecycle.draining:
            raise ShuttingDown("this server is shutting down. Send the request again, to another one.")
        if self.rates is not None:
            self.rates.take(caller or (scope.get("client") or ("unknown",))[0])
        self.lifecycle.active += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.lifecycle.active -= 1

    def _caller(self, scope: Scope, path: str) -> str | None:
        headers = header_map(scope)
        if path in self.doors.guards:
            self.doors.guards[path](HTTPConnection(scope))
            return None
        keys, token = self.doors.keys, self.doors.cluster_token
        if token is not None and (owner := token.identify(headers)) is not None:
            return f"cluster:{owner}"
        if path in self.doors.public_paths:
            return None
        if keys is not None:
            return keys.check(headers)
        if self.doors.local_only and not is_local(HTTPConnection(scope)):
            raise Forbidden(
                "this server has no API keys, so it answers its own machine only. Start it with --api-key-file FILE "
                "(or LLAVA_API_KEY), or open it to everybody with --insecure."
            )
        return None


class Bounded:
    """Reads the body within its limits and hands it on whole."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in _BODY_METHODS:
            await self.app(scope, receive, send)
            return
        headers = header_map(scope)
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self.limits.max_body_bytes:
            raise self._too_large()
        try:
            body = await asyncio.wait_for(self._read(receive), self.limits.body_timeout_s)
        except asyncio.TimeoutError:
            raise RequestTimeout(f"the request did not arrive within {self.limits.body_timeout_s:g} s.") from None
        if body is None:
            return  # the client left before it had said all
        if body:
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            # Forms of a web page can be sent across origins without asking; JSON cannot.
            if kind != "application/json":
                raise UnsupportedMediaType("send JSON, with the header `Content-Type: application/json`.")
            check_json(body, max_depth=self.limits.max_json_depth, max_values=self.limits.max_json_values)
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.limits.max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> RequestTooLarge:
        limit = self.limits.max_body_bytes
        shown = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
        return RequestTooLarge(f"the request is larger than {shown}. Send fewer or smaller images.")


def _replay(body: bytes, receive: Receive) -> Callable[[], Any]:
    handed_out = False

    async def replayed() -> Message:
        nonlocal handed_out
        if handed_out:
            return await receive()
        handed_out = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def answer_error(
    error: LlavaError, scope: Scope, receive: Receive, send: Send, frame_paths: frozenset[str]
) -> None:
    """Writes `error` as the whole answer."""
    body, headers = error_content(error, framed=scope["path"] in frame_paths)
    unread = isinstance(error, (RequestTooLarge, RequestTimeout))
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    pairs += [(b"content-length", str(len(body)).encode())] + [(b"connection", b"close")] * unread
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": unread})
    if unread:
        # A connection that is closed with bytes unread is reset, and the client never sees why.
        await _discard(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_content(error: LlavaError, *, framed: bool) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an error: a frame, or JSON in OpenAI's shape."""
    headers = retry_after_header(error)
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if framed:
        return error_frame(error, request_id()), {**headers, "content-type": "application/octet-stream"}
    body = json.dumps(openai_error(error, request_id())).encode()
    return body, {**headers, "content-type": "application/json"}


async def _discard(receive: Receive) -> None:
    async def read_on() -> None:
        num_bytes = 0
        while num_bytes < _MAX_DISCARDED_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            num_bytes += len(message.get("body", b""))

    try:
        await asyncio.wait_for(read_on(), _DISCARD_S)
    except asyncio.TimeoutError:
        return
