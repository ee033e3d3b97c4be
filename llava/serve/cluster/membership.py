"""Lets workers join and leave, checks registrations, and removes workers that have stopped answering."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

import anyio.to_thread
import httpx
from starlette.requests import HTTPConnection

from llava.constants import WORKER_HEART_BEAT_INTERVAL
from llava.errors import AddressRefused, Forbidden, LlavaError, WorkerLost
from llava.serve.cluster.access import ClusterAccess
from llava.serve.cluster.registry import TOKENLESS, RegisteredWorker, Registry
from llava.serve.cluster.worker_client import WorkerClient
from llava.serve.protocol.original import HeartBeat, RegisterWorker, WorkerStatus
from llava.serve.service.addresses import AddressPolicy, WorkerAddress, address_key, parse_worker_address
from llava.serve.service.security import is_local

logger = logging.getLogger("llava.serve.controller")

LOOK_UP_TIMEOUT_S: Final = 5.0
"""Maximum time to resolve a worker's host name, in seconds."""
REFRESH_INTERVAL_S: Final = 10.0
"""Minimum time between two refreshes, in seconds, however often clients ask for one."""
_PROBES_AT_ONCE: Final = 32


class Membership:
    """Controls which workers are in a registry."""

    def __init__(self, registry: Registry, client: WorkerClient, access: ClusterAccess, policy: AddressPolicy):
        self._registry = registry
        self._client = client
        self._access = access
        self._policy = policy
        self._refreshed_s = float("-inf")
        self._refresh_task: asyncio.Task[None] | None = None

    async def register(self, body: RegisterWorker, request: HTTPConnection) -> RegisteredWorker:
        """Registers a worker.

        Raises:
            Unauthorized: the caller may not register workers.
            AddressRefused: the controller may not connect to the address.
            Forbidden: the worker at that address did not prove that it has the cluster token.
            WorkerConflict: the address or a model belongs to a worker of another owner.
            WorkerLost: the request has no status, and the worker did not answer when asked for it.
        """
        owner = self._access.owner(request)
        address = await self._address(body.worker_name, request)
        names = body.worker_status.model_names if body.worker_status else ()
        self._registry.check_free(address, owner, names)
        status, headers = await self._introduce(address, owner, body.worker_status)
        event = "registered again" if self._registry.get(address.key) else "registered"
        worker = self._registry.register(
            address, status, owner=owner, check_heart_beat=body.check_heart_beat, auth_headers=headers
        )
        logger.info("Worker %s %s with models: %s", worker.name, event, ", ".join(worker.model_names))
        return worker

    def heart_beat(self, body: HeartBeat, request: HTTPConnection) -> bool:
        """Records a heartbeat. Returns False if the worker has to register.

        Raises:
            Unauthorized, Forbidden: the worker does not belong to the caller.
        """
        worker = self._owned(body.worker_name, request)
        return worker is not None and self._registry.heart_beat(worker.address.key, body.queue_length)

    def deregister(self, worker_name: str, request: HTTPConnection) -> None:
        """Removes a worker, if it is known. Its requests in progress continue.

        Raises:
            Unauthorized, Forbidden: the worker does not belong to the caller.
        """
        worker = self._owned(worker_name, request)
        if worker is not None:
            self._registry.remove(worker)
            logger.info("Worker %s deregistered", worker.name)

    def refresh(self) -> None:
        """Asks all workers for their status in the background, and removes those that cannot be reached."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._refreshed_s < REFRESH_INTERVAL_S:
            return
        self._refreshed_s = now_s
        self._refresh_task = asyncio.create_task(self._probe(self._registry), name="refresh")

    @contextlib.asynccontextmanager
    async def upkeep(self) -> AsyncIterator[None]:
        """Removes workers that stop answering, for as long as the block runs."""
        tasks = [asyncio.create_task(self._expire()), asyncio.create_task(self._poll())]
        try:
            yield
        finally:
            tasks += [self._refresh_task] if self._refresh_task else []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _address(self, text: str, request: HTTPConnection) -> WorkerAddress:
        policy = self._policy
        if self._access.insecure and request.client is not None:
            # Even then a caller may register only its own address, not those of others.
            with contextlib.suppress(ValueError):
                policy = replace(policy, networks=(*policy.networks, ipaddress.ip_network(request.client.host)))
        try:
            with anyio.fail_after(LOOK_UP_TIMEOUT_S):
                address = await anyio.to_thread.run_sync(
                    partial(parse_worker_address, text, policy), abandon_on_cancel=True
                )
        except TimeoutError:
            raise AddressRefused(f"worker address: the host was not resolved within {LOOK_UP_TIMEOUT_S:g} s.") from None
        if address.is_loopback and not is_local(request):
            raise AddressRefused(
                f"worker address {text!r} means the controller's own machine, but the registration came from another "
                "machine. Start the worker with --worker-address http://HOST:PORT, an address that the controller can "
                "reach."
            )
        return address

    async def _introduce(
        self, address: WorkerAddress, owner: str, status: WorkerStatus | None
    ) -> tuple[WorkerStatus, dict[str, str] | None]:
        token = self._access.token if owner != TOKENLESS else None
        if token is None and status is not None:
            return status, None
        try:
            reported, headers = await self._client.introduce(address, token, owner)
        except WorkerLost:
            # The original's workers register before they start to listen.
            if status is not None and address.is_loopback:
                return status, None
            raise
        if token is not None and headers is None and not address.is_loopback:
            raise Forbidden(
                f"worker {address.name} did not prove that it has the cluster token. Start it with the same token; it "
                "must run this release or a later one."
            )
        return status or reported, headers

    def _owned(self, worker_name: str, request: HTTPConnection) -> RegisteredWorker | None:
        owner = self._access.owner(request)
        worker = self._registry.get(address_key(worker_name))
        if worker is not None and worker.owner != owner:
            raise Forbidden(f"worker {worker.name} is registered by another owner. Use that owner's token.")
        return worker

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._registry.expiration_s / 4))
            for worker in self._registry.expire():
                logger.warning("Worker %s removed: no heartbeat for %g s", worker.name, self._registry.expiration_s)

    async def _poll(self) -> None:
        """Asks workers that send no heartbeats for their status."""
        while True:
            await asyncio.sleep(min(WORKER_HEART_BEAT_INTERVAL, self._registry.expiration_s / 2))
            await self._probe(worker for worker in self._registry if not worker.check_heart_beat)

    async def _probe(self, workers: Iterable[RegisteredWorker]) -> None:
        slots = asyncio.Semaphore(_PROBES_AT_ONCE)

        async def ask(worker: RegisteredWorker) -> None:
            async with slots:
                try:
                    status = await self._client.status(worker)
                except LlavaError as error:
                    self._unreachable(worker, error)
                else:
                    self._registry.heart_beat(worker.address.key, status.queue_length)

        await asyncio.gather(*(ask(worker) for worker in workers))

    def _unreachable(self, worker: RegisteredWorker, error: LlavaError) -> None:
        # A worker that sends heartbeats may be too busy to answer, as the original's are while they generate. It stays
        # as long as its heartbeats arrive, unless nothing listens at its address.
        if worker.check_heart_beat and not isinstance(error.__cause__, httpx.ConnectError):
            return
        self._registry.remove(worker)
        logger.warning("Removed a worker: %s", error)
