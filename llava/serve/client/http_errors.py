"""Turns failed answers of a service into typed errors, checks addresses, and reads the API key of the environment."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final

import httpx

from llava.errors import InvalidRequest, LlavaError, RemoteError, WorkerLost, WorkerTimeout
from llava.serve.protocol.constants import API_KEY_VARIABLE

USER_AGENT: Final = "LLaVA Client"
CONNECT_TIMEOUT_S: Final = 5.0

_BAD_REQUEST: Final = (400, 413, 415, 422)


def is_http_url(address: str) -> bool:
    """Whether `address` is an http or https URL with a host."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(re.fullmatch(r"[\w.:-]+", url.host))


def not_a_url(address: str) -> InvalidRequest:
    """The error for an address that `is_http_url` rejects."""
    return InvalidRequest(f"{address!r} is not an http(s) URL. Write http://HOST:PORT.")


def environment_key() -> str:
    """The API key in LLAVA_API_KEY; empty if there is none."""
    return os.environ.get(API_KEY_VARIABLE, "").strip()


def bearer(key: str) -> dict[str, str]:
    """The header that shows an API key; no header for an empty key."""
    return {"authorization": f"Bearer {key}"} if key else {}


def connection_error(address: str, error: Exception) -> LlavaError:
    """The typed error for a connection that failed."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return WorkerLost(f"{address} cannot be reached. Check the address, and that the service is running.")
    if isinstance(error, httpx.TimeoutException):
        return WorkerTimeout(f"{address} did not answer in time.")
    return broke_off(address)


def broke_off(address: str) -> WorkerLost:
    """The typed error for an answer whose end is missing."""
    return WorkerLost(f"{address} broke off in the middle of its answer.")


def remote_error(content: Any, status: int, *, retry_after_s: float | None = None) -> RemoteError:
    """The typed error for an error body: OpenAI's `{"error": {"message": ..., "code": ...}}`, or a looser form of it.

    Args:
        content: the parsed body of a refused request, or an error event of a stream.
    """
    error = content.get("error", content) if isinstance(content, dict) else None
    fields = error if isinstance(error, dict) else {}
    message = error if isinstance(error, str) else fields.get("message")
    code, param = fields.get("code"), fields.get("param")
    if not isinstance(code, str) or not code:
        code = "invalid_request" if status in _BAD_REQUEST else "internal"
    return RemoteError(
        str(message or f"HTTP {status} without a reason"),
        code=code,
        status=status,
        param=param if isinstance(param, str) else None,
        retry_after_s=retry_after_s,
    )


def parsed_json(data: str | bytes) -> Any:
    """The JSON value of `data`; None if it is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
