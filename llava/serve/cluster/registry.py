"""Keeps track of the workers, their models and their load, and chooses the worker for each request.

The registry is plain state on one event loop: it never waits, never connects, and never decides by the wall clock.

A worker's load has two parts: this controller's own requests in progress there, which it knows exactly, and requests
from elsewhere, which it knows from the worker's last heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from llava.constants import CONTROLLER_HEART_BEAT_EXPIRATION
from llava.errors import ModelNotFound, NoWorker, TryAgain, WorkerConflict
from llava.serve.protocol.original import MAX_MODELS_A_WORKER, WorkerStatus
from llava.serve.service.addresses import WorkerAddress

DispatchMethod = Literal["lottery", "shortest_queue"]
TOKENLESS: Final = "tokenless"
"""The owner of workers that registered without a token."""

_LONGEST_SUSPENSION_S: Final = 60.0
"""Maximum time for which a worker receives no requests after repeated failures, in seconds."""


@dataclass(slots=True, eq=False)
class RegisteredWorker:
    """A worker, from its registration until it leaves or expires."""

    address: WorkerAddress
    """The checked address."""
    owner: str
    """The owner of the token that it registered with, or `TOKENLESS`."""
    registered_at: int
    """Time of registration in seconds since 1970, for /v1/models."""
    model_names: tuple[str, ...] = ()
    """The models that it serves."""
    speed: float = 1.0
    """Speed relative to other workers."""
    queue_length: int = 0
    """Number of requests, running and waiting, as last reported by the worker."""
    check_heart_beat: bool = True
    """Whether the worker sends heartbeats; otherwise the controller asks for its status."""
    last_heard_s: float = 0.0
    """Time of its last heartbeat or status, in seconds on the registry's clock."""
    auth_headers: dict[str, str] = field(default_factory=dict)
    """Headers that authorize requests to the worker, once it has proven that it has the cluster token."""
    in_flight: int = 0
    """Number of this controller's requests in progress at the worker."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the worker is removed, so that nothing waits any longer for its first byte."""
    _in_flight_when_heard: int = 0
    _handed_out: int = 0
    _suspended: bool = False
    _failures: int = 0
    _suspended_until_s: float = float("-inf")

    @property
    def name(self) -> str:
        return self.address.name

    @property
    def load(self) -> float:
        """Number of requests in progress or expected, divided by the worker's speed."""
        elsewhere = max(0, self.queue_length - self._in_flight_when_heard)
        return (self.in_flight + elsewhere + self._handed_out) / self.speed

    def heard(self, now_s: float, queue_length: int) -> None:
        """Records a heartbeat or a status."""
        self.last_heard_s = now_s
        self.queue_length = queue_length
        self._in_flight_when_heard = self.in_flight
        self._handed_out = 0
        self._suspended = False

    def failed(self, now_s: float) -> None:
        """Withholds requests until the next heartbeat, and for longer after several failures in a row."""
        self._suspended = True
        self._failures += 1
        self._suspended_until_s = now_s + min(_LONGEST_SUSPENSION_S, 2.0**self._failures - 2)

    def answered(self) -> None:
        """Records a complete answer, which ends a series of failures."""
        self._failures = 0

    def forgive(self) -> None:
        """Forgets past failures, because the worker has registered again."""
        self._failures, self._suspended_until_s = 0, float("-inf")

    def handed_out(self) -> None:
        """Records that a client was given the address and will send its request directly."""
        self._handed_out += 1

    def is_routable(self, now_s: float) -> bool:
        """Whether the worker may receive requests now."""
        return not self._suspended and now_s >= self._suspended_until_s


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What the metrics report about one worker."""

    name: str
    routable: bool
    """Whether the worker receives requests."""
    in_flight: int
    """Number of this controller's requests in progress there."""
    heard_ago_s: float
    """Seconds since its last heartbeat or status."""


class Registry:
    """The workers of one controller."""

    def __init__(
        self,
        dispatch_method: DispatchMethod = "shortest_queue",
        *,
        expiration_s: float = CONTROLLER_HEART_BEAT_EXPIRATION,
        max_workers: int = 256,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ):
        self._dispatch_method = dispatch_method
        self.expiration_s = expiration_s
        self._max_workers = max_workers
        self._clock = clock
        self._rng = rng or random.Random()
        self._workers: dict[str, RegisteredWorker] = {}

    def __iter__(self) -> Iterator[RegisteredWorker]:
        return iter(tuple(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, key: str) -> RegisteredWorker | None:
        """Returns the worker whose address has this key (`WorkerAddress.key`), or None."""
        return self._workers.get(key)

    # Registration

    def check_free(self, address: WorkerAddress, owner: str, model_names: Collection[str] = ()) -> None:
        """Checks that `owner` may register this address with these models.

        Raises:
            WorkerConflict: the address or one of the models belongs to a worker of another owner.
            TryAgain: the maximum number of workers is reached.
        """
        known = self._workers.get(address.key)
        if known is not None and known.owner != owner:
            raise WorkerConflict(
                f"worker {address.name} is registered by another owner. Use that owner's token, or wait until that "
                "worker has ended."
            )
        for worker in self._workers.values():
            taken = set(worker.model_names).intersection(model_names)
            if taken and worker.owner != owner:
                raise WorkerConflict(
                    f"model {min(taken)!r} is served by workers of another owner. Use that owner's token, or another "
                    "--model-name."
                )
        if known is None and len(self._workers) >= self._max_workers:
            raise TryAgain(f"the limit of {self._max_workers} workers is reached.", retry_after_s=30)

    def register(
        self,
        address: WorkerAddress,
        status: WorkerStatus,
        *,
        owner: str = TOKENLESS,
        check_heart_beat: bool = True,
        auth_headers: dict[str, str] | None = None,
    ) -> RegisteredWorker:
        """Adds a worker, or updates the one at this address; there is never more than one.

        Raises:
            WorkerConflict, TryAgain: see `check_free`.
        """
        self.check_free(address, owner, status.model_names)
        now_s = self._clock()
        worker = self._workers.get(address.key)
        if worker is None:
            worker = RegisteredWorker(address, owner, registered_at=int(time.time()))
            self._workers[address.key] = worker
        # A known worker is updated in place, so that its requests in progress stay counted.
        worker.address = address
        worker.model_names = tuple(dict.fromkeys(status.model_names))
        worker.speed = status.speed
        worker.check_heart_beat = check_heart_beat
        worker.auth_headers = auth_headers or {}
        worker.forgive()
        worker.heard(now_s, status.queue_length)
        return worker

    def heart_beat(self, key: str, queue_length: int) -> bool:
        """Records a heartbeat. Returns False if the worker is unknown and has to register."""
        worker = self._workers.get(key)
        if worker is None:
            return False
        worker.heard(self._clock(), queue_length)
        return True

    def remove(self, worker: RegisteredWorker) -> None:
        """Removes a worker. Its requests in progress continue."""
        if self._workers.get(worker.address.key) is worker:
            del self._workers[worker.address.key]
            worker.gone.set()

    def expire(self) -> list[RegisteredWorker]:
        """Removes and returns the workers whose heartbeats have stopped."""
        limit = self._clock() - self.expiration_s
        silent = [worker for worker in self if worker.check_heart_beat and worker.last_heard_s < limit]
        for worker in silent:
            self.remove(worker)
        return silent

    # Routing

    def models(self) -> list[str]:
        """Returns the names of all models, sorted."""
        return sorted({name for worker in self for name in worker.model_names})

    def registered_at(self, model: str) -> int:
        """Returns when the first of a model's workers registered, in seconds since 1970.

        Raises:
            ModelNotFound: no worker serves the model.
        """
        return min(worker.registered_at for worker in self._serving(model))

    def choose(self, model: str, *, exclude: Collection[RegisteredWorker] = ()) -> RegisteredWorker:
        """Chooses the worker for the next request for `model`.

        Raises:
            ModelNotFound: no worker serves the model.
            NoWorker: none of the model's workers is available, or all are in `exclude`.
        """
        now_s = self._clock()
        usable = [w for w in self._serving(model) if w not in exclude and w.is_routable(now_s)]
        if not usable:
            raise NoWorker(f"no worker of model {model!r} is available. Try again in a few seconds.", retry_after_s=5)
        if self._dispatch_method == "lottery":
            return self._rng.choices(usable, [worker.speed for worker in usable])[0]
        # The less busy of two random workers: loads are always a little out of date, and several controllers that all
        # chose the least busy worker would overload it.
        return min(self._rng.sample(usable, min(2, len(usable))), key=lambda worker: worker.load)

    def failed(self, worker: RegisteredWorker) -> None:
        """Records that a worker did not answer; see `RegisteredWorker.failed`."""
        worker.failed(self._clock())

    @contextlib.contextmanager
    def lease(self, worker: RegisteredWorker) -> Iterator[None]:
        """Counts one request in progress at `worker` while the block runs."""
        worker.in_flight += 1
        try:
            yield
        finally:
            worker.in_flight -= 1

    def totals(self) -> WorkerStatus | None:
        """Returns the status of all workers as one, for a controller above this one, or None without workers."""
        if not self._workers:
            return None
        return WorkerStatus(
            model_names=self.models()[:MAX_MODELS_A_WORKER],
            speed=sum(worker.speed for worker in self),
            queue_length=sum(max(worker.queue_length, worker.in_flight) for worker in self),
        )

    def states(self) -> list[WorkerState]:
        """Returns the current state of each worker."""
        now_s = self._clock()
        return [WorkerState(w.name, w.is_routable(now_s), w.in_flight, now_s - w.last_heard_s) for w in self]

    def _serving(self, model: str) -> list[RegisteredWorker]:
        serving = [worker for worker in self if model in worker.model_names]
        if not serving:
            raise ModelNotFound(model, self.models())
        return serving
