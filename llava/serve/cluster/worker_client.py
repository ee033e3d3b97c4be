"""Connects a controller to its workers, always at the address that was checked: no redirects, no proxies."""

from __future__ import annotations

import asyncio
import json
import secrets
from types import TracebackType
from typing import Final

import anyio
import httpx
from pydantic import ValidationError

from llava.errors import Forbidden, WorkerLost
from llava.serve.cluster.registry import RegisteredWorker
from llava.serve.protocol.original import CHALLENGE_HEADER, STATUS_PATH, WorkerStatus
from llava.serve.service.addresses import WorkerAddress
from llava.serve.service.security import ClusterToken
from llava.serve.service.tracing import outgoing_headers

STATUS_TIMEOUT_S: Final = 5.0
"""Maximum time for connecting to a worker, and for its status, in seconds."""
_MAX_STATUS_BYTES: Final = 64 * 1024


class WorkerClient:
    """The HTTP client of one controller; an async context manager."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(
            # One connection per request: a worker may close an idle connection at the moment when it is reused, which
            # would look like a dead worker.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx.Timeout(STATUS_TIMEOUT_S, read=None, write=60.0),
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> WorkerClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def send(self, worker: RegisteredWorker, path: str, body: bytes) -> httpx.Response:
        """Forwards a request to a worker and returns once the response's status and headers have arrived.

        Raises:
            httpx.HTTPError: the connection failed or broke.
        """
        headers = {**outgoing_headers(), **worker.auth_headers, "content-type": "application/json"}
        return await self._http.send(self._request(worker.address, path, body, headers), stream=True)

    async def status(self, worker: RegisteredWorker) -> WorkerStatus:
        """Asks a worker for its status.

        Raises:
            WorkerLost: the worker did not answer in time, or not as a worker does.
        """
        return await self._status(worker.address, worker.auth_headers)

    async def introduce(
        self, address: WorkerAddress, token: ClusterToken | None = None, owner: str = ""
    ) -> tuple[WorkerStatus, dict[str, str] | None]:
        """Asks for the status of whatever runs at an address and, given a token, for proof that it belongs to `owner`.

        Returns:
            The status, and the headers that authorize requests to this worker, or None without proof.

        Raises:
            WorkerLost: the worker did not answer in time, or not as a worker does.
            Forbidden: the worker proved that it has a different token.
        """
        nonce = secrets.token_hex(16)
        status = await self._status(address, {CHALLENGE_HEADER: nonce} if token else {})
        if token is None or status.proof is None:
            return status, None
        headers = token.verify(nonce, status.proof, owner)
        if headers is None:
            raise Forbidden(f"worker {address.name} has a different cluster token. Both must use the same token.")
        return status, headers

    async def _status(self, address: WorkerAddress, headers: dict[str, str]) -> WorkerStatus:
        request = self._request(address, STATUS_PATH, b"", {**outgoing_headers(), **headers})
        try:
            return WorkerStatus.model_validate_json(await asyncio.wait_for(self._read(request), STATUS_TIMEOUT_S))
        except asyncio.TimeoutError as error:
            raise WorkerLost(f"worker {address.name} did not report a status within {STATUS_TIMEOUT_S:g} s.") from error
        except httpx.HTTPError as error:
            raise WorkerLost(f"worker {address.name} cannot be reached ({type(error).__name__}).") from error
        except ValidationError as error:
            raise WorkerLost(f"worker {address.name} did not answer {STATUS_PATH} as a worker does.") from error

    async def _read(self, request: httpx.Request) -> bytes:
        response = await self._http.send(request, stream=True)
        body = b""
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_STATUS_BYTES:
                    break
        finally:
            await close(response)
        return body if response.status_code == 200 else json.dumps(None).encode()

    def _request(self, address: WorkerAddress, path: str, body: bytes, headers: dict[str, str]) -> httpx.Request:
        return self._http.build_request(
            "POST",
            address.url(path),
            content=body,
            headers={**headers, "host": address.host_header(), "accept-encoding": "identity", "user-agent": "llava"},
            extensions={"sni_hostname": address.host},
        )


async def close(response: httpx.Response) -> None:
    """Closes a response, even while the task is being cancelled, which tells the worker to stop."""
    with anyio.move_on_after(1, shield=True):
        await response.aclose()
