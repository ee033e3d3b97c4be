"""Turns errors into HTTP responses: JSON in OpenAI's format, or a frame of the original's protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from llava.errors import InvalidField, LlavaError, RequestTimeout, RequestTooLarge, Unauthorized
from llava.serve.protocol.original import error_frame, openai_error, retry_after_header
from llava.serve.service.tracing import request_id

_MAX_DISCARDED_BYTES: Final = 64 * 1024 * 1024
_DISCARD_S: Final = 5.0
_HTTP_CODES: Final = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}
_HTTP_MESSAGES: Final = {
    400: "the request cannot be parsed.",
    404: "this server has no such path.",
    405: "this path does not support that method.",
}


def error_content(error: LlavaError, *, framed: bool) -> tuple[bytes, dict[str, str]]:
    """Returns body and headers of an error response: a frame if `framed`, otherwise JSON in OpenAI's format."""
    headers = retry_after_header(error)
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if framed:
        return error_frame(error, request_id()), {**headers, "content-type": "application/octet-stream"}
    body = json.dumps(openai_error(error, request_id())).encode()
    return body, {**headers, "content-type": "application/json"}


async def send_error(
    error: LlavaError, scope: Scope, receive: Receive, send: Send, frame_paths: frozenset[str]
) -> None:
    """Sends `error` as the complete response, for middleware, where no route has answered."""
    body, headers = error_content(error, framed=scope["path"] in frame_paths)
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    body_is_unread = isinstance(error, (RequestTooLarge, RequestTimeout))
    if body_is_unread:
        pairs.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": body_is_unread})
    if body_is_unread:
        # Closing a connection with unread bytes resets it, and the client never sees the reason.
        await _discard_body(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def add_error_handlers(app: FastAPI, frame_paths: frozenset[str]) -> None:
    """Makes every error that a route raises a response in one of the two formats."""

    def response(request: Request, error: LlavaError) -> Response:
        body, headers = error_content(error, framed=request.url.path in frame_paths)
        return Response(body, error.status, headers)

    async def for_llava_error(request: Request, error: LlavaError) -> Response:
        return response(request, error)

    async def for_validation_error(request: Request, error: RequestValidationError) -> Response:
        return response(request, invalid_field(error))

    async def for_http_exception(request: Request, error: HTTPException) -> Response:
        typed = LlavaError(_HTTP_MESSAGES.get(error.status_code, str(error.detail)))
        typed.status, typed.code = error.status_code, _HTTP_CODES.get(error.status_code, "http_error")
        answer = response(request, typed)
        answer.headers.update(error.headers or {})
        return answer

    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        LlavaError: for_llava_error,
        RequestValidationError: for_validation_error,
        HTTPException: for_http_exception,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def invalid_field(error: RequestValidationError | ValidationError) -> InvalidField:
    """Returns an error that names the first invalid field of a request and omits its value."""
    errors: Sequence[Any] = error.errors()
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return InvalidField("the body is not valid JSON.")
    text = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidField(f"{where or 'body'}: {text}{more}.", param=where or None)


async def _discard_body(receive: Receive) -> None:
    async def discard() -> None:
        num_bytes = 0
        while num_bytes < _MAX_DISCARDED_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            num_bytes += len(message.get("body", b""))

    try:
        await asyncio.wait_for(discard(), _DISCARD_S)
    except asyncio.TimeoutError:
        return
