"""How workers join, stay and leave: the checks of a registration, and the upkeep that runs beside all requests."""

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

from llava.errors import AddressRefused, Forbidden, LlavaError, WorkerLost
from llava.serve.cluster.access import ClusterAccess
from llava.serve.cluster.registry import TOKENLESS, Registry, Worker
from llava.serve.cluster.worker_client import WorkerClient
from llava.serve.protocol.original import HEART_BEAT_INTERVAL_S, HeartBeat, RegisterWorker, WorkerStatus
from llava.serve.service.addresses import AddressPolicy, WorkerAddress, address_key, parse_worker_address
from llava.serve.service.security import is_local

logger = logging.getLogger("llava.serve.controller")

LOOK_UP_TIMEOUT_S: Final = 5.0
REFRESH_INTERVAL_S: Final = 10.0
"""Clients may ask for a refresh as often as they like; this often one is made."""
_PROBES_AT_ONCE: Final = 32


class Membership:
    """The door of a registry."""

    def __init__(self, registry: Registry, client: WorkerClient, access: ClusterAccess, policy: AddressPolicy):
        self._registry = registry
        self._client = client
        self._access = access
        self._policy = policy
        self._refreshed_s = float("-inf")
        self._refresh_task: asyncio.Task[None] | None = None

    async def register(self, body: RegisterWorker, request: HTTPConnection) -> Worker:
        """Lets a worker in.

        Raises:
            Unauthorized: the caller may not register workers.
            AddressRefused: the address may not be connected to.
            Forbidden: nothing at that address shows the cluster token.
            WorkerConflict: address or model belong to somebody else's workers.
            WorkerLost: its status is not in the request, and it does not answer when asked.
        """
        owner = self._access.owner(request)
        address = await self._address(body.worker_name, request)
        names = body.worker_status.model_names if body.worker_status else ()
        self._registry.check_free(address, owner, names)
        status, headers = await self._introduce(address, owner, body.worker_status)
        how = "registered again" if self._registry.get(address.key) else "registered"
        worker = self._registry.register(
            address, status, owner=owner, check_heart_beat=body.check_heart_beat, auth_headers=headers
        )
        logger.info("worker %s %s: %s", worker.name, how, ", ".join(worker.model_names))
        return worker

    def heart_beat(self, body: HeartBeat, request: HTTPConnection) -> bool:
        """Notes that a worker lives; False when it has to register.

        Raises:
            Unauthorized, Forbidden: it is not the caller's worker.
        """
        worker = self._owned(body.worker_name, request)
        return worker is not None and self._registry.heart_beat(worker.address.key, body.queue_length)

    def deregister(self, worker_name: str, request: HTTPConnection) -> None:
        """Forgets a worker, if there is one of that name; what it is answering goes on.

        Raises:
            Unauthorized, Forbidden: it is not the caller's worker.
        """
        worker = self._owned(worker_name, request)
        if worker is not None:
            self._registry.remove(worker)
            logger.info("worker %s has left", worker.name)

    def refresh(self) -> None:
        """Has all workers asked how they are, soon and in the background; those that are not there are forgotten."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._refreshed_s < REFRESH_INTERVAL_S:
            return
        self._refreshed_s = now_s
        self._refresh_task = asyncio.create_task(self._probe(self._registry), name="refresh")

    @contextlib.asynccontextmanager
    async def upkeep(self) -> AsyncIterator[None]:
        """Expires and asks after workers as long as the block runs."""
        tasks = [asyncio.create_task(self._expire()), asyncio.create_task(self._ask_silent_ones())]
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
            # Even then a caller may register itself, not third parties.
            with contextlib.suppress(ValueError):
                policy = replace(policy, networks=(*policy.networks, ipaddress.ip_network(request.client.host)))
        try:
            with anyio.fail_after(LOOK_UP_TIMEOUT_S):
                address = await anyio.to_thread.run_sync(
                    partial(parse_worker_address, text, policy), abandon_on_cancel=True
                )
        except TimeoutError:
            raise AddressRefused(f"worker address: its host was not found within {LOOK_UP_TIMEOUT_S:g} s.") from None
        if address.is_loopback and not is_local(request):
            raise AddressRefused(
                f"worker address {text!r} means the controller's own machine, but the registration comes from another. "
                "Start the worker with --worker-address http://HOST:PORT, by which the controller can reach it."
            )
        return address

    async def _introduce(
        self, address: WorkerAddress, owner: str, status: WorkerStatus | None
    ) -> tuple[WorkerStatus, dict[str, str] | None]:
        token = self._access.token if owner != TOKENLESS else None
        if token is None and status is not None:
            return status, None
        try:
            said, headers = await self._client.introduce(address, token, owner)
        except WorkerLost:
            # The original's workers register before they listen.
            if status is not None and address.is_loopback:
                return status, None
            raise
        if token is not None and headers is None and not address.is_loopback:
            raise Forbidden(
                f"worker {address.name} does not show that it holds the cluster token. Start it with the same token, "
                "and from this release or later."
            )
        return status or said, headers

    def _owned(self, worker_name: str, request: HTTPConnection) -> Worker | None:
        owner = self._access.owner(request)
        worker = self._registry.get(address_key(worker_name))
        if worker is not None and worker.owner != owner:
            raise Forbidden(f"worker {worker.name} is registered by another owner.")
        return worker

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._registry.expiration_s / 4))
            for worker in self._registry.expire():
                logger.warning("worker %s has not been heard of and is forgotten", worker.name)

    async def _ask_silent_ones(self) -> None:
        """Workers that send no heartbeats are asked instead."""
        while True:
            await asyncio.sleep(min(HEART_BEAT_INTERVAL_S, self._registry.expiration_s / 2))
            await self._probe(worker for worker in self._registry if not worker.check_heart_beat)

    async def _probe(self, workers: Iterable[Worker]) -> None:
        slots = asyncio.Semaphore(_PROBES_AT_ONCE)

        async def ask(worker: Worker) -> None:
            async with slots:
                try:
                    status = await self._client.status(worker)
                except LlavaError as error:
                    self._not_there(worker, error)
                else:
                    self._registry.heart_beat(worker.address.key, status.queue_length)

        await asyncio.gather(*(ask(worker) for worker in workers))

    def _not_there(self, worker: Worker, error: LlavaError) -> None:
        # One that beats may be too busy to answer (the original's are, while they generate): its beats decide, unless
        # nobody listens there at all.
        if worker.check_heart_beat and not isinstance(error.__cause__, httpx.ConnectError):
            return
        self._registry.remove(worker)
        logger.warning("%s It is forgotten.", error)
