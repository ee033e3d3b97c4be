"""Handles every request before it reaches a route, as plain ASGI middleware that never buffers a response.

From the outside in: `TracingMiddleware` assigns ids; `AccessLogMiddleware` writes one line per request and is the last
resort for errors; `AdmissionMiddleware` checks draining, access and rates before any of the body is read;
`BodyLimitMiddleware` checks size, type and nesting of the body.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava.errors import (
    LlavaError,
    RequestTimeout,
    RequestTooLarge,
    ShuttingDown,
    UnsupportedMediaType,
)
from llava.serve.service.error_responses import send_error
from llava.serve.service.health import MONITORING_PATHS
from llava.serve.service.json_guard import check_json
from llava.serve.service.lifecycle import Lifecycle
from llava.serve.service.logs import fields
from llava.serve.service.rates import RateLimiter
from llava.serve.service.security import AccessPolicy, header_map
from llava.serve.service.tracing import REQUEST_ID_HEADER, TRACEPARENT_HEADER, Trace, request_id, set_trace

access_log = logging.getLogger("llava.access")
logger = logging.getLogger("llava.serve")

_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on each request, enforced before a route sees it."""

    max_body_bytes: int = 20 * 1024 * 1024
    """Maximum size of the body in bytes."""
    max_json_depth: int = 32
    """Maximum number of nested lists and objects in the body."""
    max_json_values: int = 10_000
    """Maximum number of values in the body: numbers, strings, lists and objects on all levels."""
    body_timeout_s: float = 60.0
    """Maximum time for the whole body to arrive, in seconds."""
    requests_per_minute: int = 0
    """Maximum rate for each API key, or for each IP address if the service has no keys; 0 means no limit."""


class TracingMiddleware:
    """Gives each request its ids and returns the request id with the response."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = header_map(scope)
        trace = Trace.continued(headers.get(REQUEST_ID_HEADER), headers.get(TRACEPARENT_HEADER))
        set_trace(trace)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-request-id"]
                ours = [(b"x-request-id", trace.request_id.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": others + ours}
            await send(message)

        await self.app(scope, receive, send_with_id)


class AccessLogMiddleware:
    """Writes one line per request and turns errors that nothing else has handled into responses."""

    def __init__(self, app: ASGIApp, frame_paths: frozenset[str]):
        """
        Args:
            app: the wrapped app.
            frame_paths: paths that report errors as frames of the original's protocol.
        """
        self.app, self.frame_paths = app, frame_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_s = time.monotonic()
        status, num_bytes = 0, 0

        async def counting_send(message: Message) -> None:
            nonlocal status, num_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, counting_send)
        except LlavaError as error:
            if status:
                raise
            await send_error(error, scope, receive, counting_send, self.frame_paths)
        except Exception:
            # This is the outermost handler: whatever went wrong, the client must get a response. The traceback stays
            # in the log because it may contain user data.
            logger.exception("Unexpected error in request %s", request_id())
            if status:
                raise
            unexpected = LlavaError(f"unexpected error. The server's log has the details under {request_id()}.")
            await send_error(unexpected, scope, receive, counting_send, self.frame_paths)
        finally:
            self._log(scope, status, num_bytes, began_s)

    @staticmethod
    def _log(scope: Scope, status: int, num_bytes: int, began_s: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        level = logging.DEBUG if route in MONITORING_PATHS else logging.INFO
        if access_log.isEnabledFor(level):
            line = fields(
                method=scope["method"],
                route=route,
                status=status or "aborted",
                ms=(time.monotonic() - began_s) * 1000,
                bytes=num_bytes,
                caller=scope.get("llava.caller"),
                request_id=request_id(),
            )
            access_log.log(level, "%s", line)


class AdmissionMiddleware:
    """Refuses requests while the service drains, and those of callers without access or over their rate limit."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy, lifecycle: Lifecycle, rates: RateLimiter | None):
        self.app, self.policy, self.lifecycle, self.rates = app, policy, lifecycle, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        caller = self.policy.identify(HTTPConnection(scope))
        scope["llava.caller"] = caller
        if scope["path"] in MONITORING_PATHS:
            await self.app(scope, receive, send)
            return
        if self.lifecycle.draining:
            raise ShuttingDown("this server is shutting down. Send the request to another server.")
        if self.rates is not None:
            self.rates.take(caller or (scope.get("client") or ("unknown",))[0])
        self.lifecycle.active += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.lifecycle.active -= 1


class BodyLimitMiddleware:
    """Reads the whole body within its limits, then passes it on in one piece."""

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
            return  # the client disconnected before it had sent the whole body
        if body:
            content_type = headers.get("content-type", "").split(";")[0].strip().lower()
            # A browser lets a page submit a form to another origin without a preflight request; JSON needs one.
            if content_type != "application/json":
                raise UnsupportedMediaType("the body must be JSON. Send the header `Content-Type: application/json`.")
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
    """Returns a `receive` that delivers `body` first."""
    delivered = False

    async def replayed() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
