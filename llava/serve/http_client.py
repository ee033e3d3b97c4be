"""How our command-line clients call a service: typed errors out of whatever it answers, or does not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import httpx

from llava.errors import InvalidField, InvalidRequest, RemoteError, WorkerLost
from llava.serve.protocol import FrameSplitter, raise_for_frame, read_frames_sync
from llava.serve.security import API_KEY_VARIABLE


class Client:
    """One service. Shows the API key of the environment's LLAVA_API_KEY, if there is one."""

    def __init__(self, address: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0):
        self.address = address.rstrip("/")
        key = os.environ.get(API_KEY_VARIABLE, "").strip()
        keys = {"authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(
                base_url=self.address,
                headers={"user-agent": "LLaVA Client", **keys, **(headers or {})},
                timeout=httpx.Timeout(timeout_s, connect=5.0),
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidRequest(f"{address}: no address; write http://HOST:PORT.") from error

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
            raise self._lost(error) from error
        if response.status_code != 200:
            raise _refusal(response)
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
                    raise _refusal(response)
                for frame in read_frames_sync(response.iter_raw()):
                    raise_for_frame(frame)
                    yield frame
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._lost(error) from error
        except InvalidField as error:
            raise WorkerLost(f"{self.address}{path}: {error}") from error

    def _lost(self, error: Exception) -> WorkerLost:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)):
            return WorkerLost(f"{self.address} cannot be reached. Check the address, and that the service runs.")
        if isinstance(error, httpx.TimeoutException):
            return WorkerLost(f"{self.address} does not answer in time.")
        return WorkerLost(f"{self.address} broke off in the middle of its answer.")


def _refusal(response: httpx.Response) -> RemoteError:
    try:
        (content,) = list(FrameSplitter().feed(response.content.rstrip(b"\0") + b"\0"))
    except (InvalidField, ValueError):
        content = {}
    error = content.get("error")
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or f"HTTP {response.status_code} without a reason")
    return RemoteError(message, code=str(error.get("code") or "internal"), status=response.status_code)
