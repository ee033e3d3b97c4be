"""Calls a service of the original's protocol: a controller or a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import httpx

from llava.errors import InvalidField, RemoteError, WorkerLost
from llava.serve.client.http_errors import (
    CONNECT_TIMEOUT_S,
    USER_AGENT,
    bearer,
    connection_error,
    environment_key,
    is_http_url,
    not_a_url,
    parsed_json,
    remote_error,
)
from llava.serve.protocol.original import raise_for_frame, read_frames_sync


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


def _refusal(response: httpx.Response) -> RemoteError:
    """The error in a response of the original's protocol, which may end in the NUL byte of a frame."""
    return remote_error(parsed_json(response.content.rstrip(b"\0")), response.status_code)
