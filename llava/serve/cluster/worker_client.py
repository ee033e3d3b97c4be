"""How a controller talks to workers: to the very address that was checked, never redirected, never by a proxy."""

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
from llava.serve.cluster.registry import Worker
from llava.serve.protocol.original import CHALLENGE_HEADER, STATUS_PATH, WorkerStatus
from llava.serve.service.addresses import WorkerAddress
from llava.serve.service.security import ClusterToken
from llava.serve.service.tracing import outgoing_headers

STATUS_TIMEOUT_S: Final = 5.0
_MAX_STATUS_BYTES: Final = 64 * 1024


class WorkerClient:
    """The connections of one controller. An async context manager."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(
            # A connection a request: one kept alive may be closed by its worker in the moment of the next request,
            # which looks like a dead worker.
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

    async def send(self, worker: Worker, path: str, body: bytes) -> httpx.Response:
        """Sends a request on to a worker; returns once the head of the answer is there.

        Raises:
            httpx.HTTPError: no connection, or none that lasts.
        """
        headers = {**outgoing_headers(), **worker.auth_headers, "content-type": "application/json"}
        return await self._http.send(self._request(worker.address, path, body, headers), stream=True)

    async def status(self, worker: Worker) -> WorkerStatus:
        """Asks a worker how it is.

        Raises:
            WorkerLost: no answer in time, or none that makes sense.
        """
        return await self._status(worker.address, worker.auth_headers)

    async def introduce(
        self, address: WorkerAddress, token: ClusterToken | None = None, owner: str = ""
    ) -> tuple[WorkerStatus, dict[str, str] | None]:
        """Asks who is at an address, and with a token for the proof that it is one of `owner`'s workers.

        Returns:
            Its status, and the headers that open it; None for those if it has proven nothing.

        Raises:
            WorkerLost: no answer in time, or none that makes sense.
        """
        nonce = secrets.token_hex(16)
        status = await self._status(address, {CHALLENGE_HEADER: nonce} if token else {})
        if token is None or status.proof is None:
            return status, None
        headers = token.verify(nonce, status.proof, owner)
        if headers is None:
            raise Forbidden(f"worker {address.name} answers with the proof of another cluster token. Check its token.")
        return status, headers

    async def _status(self, address: WorkerAddress, headers: dict[str, str]) -> WorkerStatus:
        request = self._request(address, STATUS_PATH, b"", {**outgoing_headers(), **headers})
        try:
            return WorkerStatus.model_validate_json(await asyncio.wait_for(self._read(request), STATUS_TIMEOUT_S))
        except asyncio.TimeoutError as error:
            raise WorkerLost(f"worker {address.name} does not say how it is within {STATUS_TIMEOUT_S:g} s.") from error
        except httpx.HTTPError as error:
            raise WorkerLost(f"worker {address.name} cannot be reached ({type(error).__name__}).") from error
        except ValidationError as error:
            raise WorkerLost(f"worker {address.name} does not answer {STATUS_PATH} as a worker does.") from error

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
    """Closes a response, also while the task is being cancelled: that is how a worker learns to stop."""
    with anyio.move_on_after(1, shield=True):
        await response.aclose()
