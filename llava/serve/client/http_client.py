"""How our command-line clients call a service: typed errors out of whatever it answers, or does not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import httpx

from llava.errors import InvalidField, InvalidRequest, RemoteError, WorkerLost
from llava.serve.protocol.original import FrameSplitter, raise_for_frame, read_frames_sync
from llava.serve.service.security import API_KEY_VARIABLE


class Client:
    """One service. Shows the API key of the environment's LLAVA_API_KEY, if there is one."""

    def __init__(self, address: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0):
        self.address = address.rstrip("/")
        self._http = httpx.Client(**client_options(self.address, headers, timeout_s))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON that the service answers.

        Raises:
            RemoteError: it refused; with its own words.
            WorkerLost: it cannot be reached, or what answers is no such service.
        """
        try:
            response = self._http.post(path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost(self.address, error) from error
        if response.status_code != 200:
            raise refusal(response)
        try:
            return response.json()
        except ValueError as error:
            raise WorkerLost(f"{self.address}{path}: the answer is not JSON. Is that a LLaVA service?") from error

    def frames(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """The frames of a stream.

        Raises:
            RemoteError: the service refused, or a frame says that the answer failed.
            WorkerLost: it cannot be reached, breaks off, or sends something else.
        """
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise refusal(response)
                for frame in read_frames_sync(response.iter_raw()):
                    raise_for_frame(frame)
                    yield frame
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise lost(self.address, error) from error
        except InvalidField as error:
            raise WorkerLost(f"{self.address}{path}: {error}") from error


def client_options(address: str, headers: Mapping[str, str] | None, timeout_s: float) -> dict[str, Any]:
    """What an httpx client is made with: the address, the environment's key, no proxy.

    Raises:
        InvalidRequest: `address` is none.
    """
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidRequest(f"{address}: no address; write http://HOST:PORT.")
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    keys = {"authorization": f"Bearer {key}"} if key else {}
    return {
        "base_url": url,
        "headers": {"user-agent": "LLaVA Client", **keys, **(headers or {})},
        "timeout": httpx.Timeout(timeout_s, connect=5.0),
        "trust_env": False,
    }


def lost(address: str, error: Exception) -> WorkerLost:
    """What a failed connection means to a user."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return WorkerLost(f"{address} cannot be reached. Check the address, and that the service runs.")
    if isinstance(error, httpx.TimeoutException):
        return WorkerLost(f"{address} does not answer in time.")
    return WorkerLost(f"{address} broke off in the middle of its answer.")


def refusal(response: httpx.Response) -> RemoteError:
    """A service's own words, out of an answer that is not 200 and has been read."""
    try:
        (content,) = list(FrameSplitter().feed(response.content.rstrip(b"\0") + b"\0"))
    except (InvalidField, ValueError):
        content = {}
    return remote_error(content, response.status_code)


def remote_error(content: Any, status: int) -> RemoteError:
    """The `error` object of OpenAI's shape as an error of ours."""
    error = content.get("error") if isinstance(content, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or f"HTTP {status} without a reason")
    return RemoteError(message, code=str(error.get("code") or "internal"), status=status)
