"""Calls a service over HTTP and turns whatever it answers, or fails to answer, into typed errors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final

import httpx

from llava.errors import InvalidField, InvalidRequest, LlavaError, RemoteError, WorkerLost, WorkerTimeout
from llava.serve.protocol.original import raise_for_frame, read_frames_sync
from llava.serve.service.security import API_KEY_VARIABLE

USER_AGENT: Final = "LLaVA Client"
CONNECT_TIMEOUT_S: Final = 5.0

_BAD_REQUEST: Final = (400, 413, 415, 422)


class Client:
    """A client of the original's protocol. Sends the API key in LLAVA_API_KEY, if that is set."""

    def __init__(self, address: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0):
        """
        Raises:
            InvalidRequest: `address` is not an http(s) URL.
        """
        self.address = address.rstrip("/")
        if not is_http_url(self.address):
            raise not_a_url(address)
        key = environment_key()
        self._http = httpx.Client(
            base_url=self.address,
            headers={"user-agent": USER_AGENT, **bearer(key), **(headers or {})},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def post(self, path: str, body: Any = None) -> Any:
        """Posts `body` as JSON and returns the JSON that the service answers.

        Raises:
            RemoteError: the service refused; the message is its own.
            WorkerLost: the service cannot be reached, or is not a LLaVA service.
            WorkerTimeout: the service did not answer in time.
        """
        try:
            response = self._http.post(path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise connection_error(self.address, error) from error
        if response.status_code != 200:
            raise _refusal(response)
        try:
            return response.json()
        except ValueError as error:
            raise WorkerLost(f"{self.address}{path}: the answer is not JSON. Is this a LLaVA service?") from error

    def frames(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """Posts `body` as JSON and yields the frames of the stream that comes back.

        Raises:
            RemoteError: the service refused, or a frame reports that the answer failed.
            WorkerLost: the service cannot be reached, breaks off, or sends something else.
            WorkerTimeout: the service sent nothing for too long.
        """
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                for frame in read_frames_sync(response.iter_raw()):
                    raise_for_frame(frame)
                    yield frame
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise connection_error(self.address, error) from error
        except InvalidField as error:
            raise WorkerLost(f"{self.address}{path}: {error}") from error


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


def _refusal(response: httpx.Response) -> RemoteError:
    """The error in a response of the original's protocol, which may end in the NUL byte of a frame."""
    return remote_error(parsed_json(response.content.rstrip(b"\0")), response.status_code)
