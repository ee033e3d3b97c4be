"""Which workers there are, what they serve, how busy they are, and which one gets the next request.

Plain state on one event loop: nothing here waits, connects or reads the wall clock to decide anything.

A worker's load is what this controller knows exactly, the requests it has under way there, and what the worker alone
knows, requests from elsewhere, as of its last heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from llava.errors import ModelNotFound, NoWorker, TryAgain, WorkerConflict
from llava.serve.protocol.original import HEART_BEAT_EXPIRATION_S, MAX_MODELS_A_WORKER, WorkerStatus
from llava.serve.service.addresses import WorkerAddress

DispatchMethod = Literal["lottery", "shortest_queue"]
TOKENLESS: Final = "tokenless"
"""Owner of workers that registered without a token."""

_LONGEST_PENALTY_S: Final = 60.0


@dataclass(slots=True, eq=False)
class Worker:
    """One worker, as long as it is known."""

    address: WorkerAddress
    owner: str
    registered_at: int
    """Seconds since 1970, for /v1/models."""
    model_names: tuple[str, ...] = ()
    speed: float = 1.0
    queue_length: int = 0
    """As the worker said last."""
    check_heart_beat: bool = True
    last_heard_s: float = 0.0
    auth_headers: dict[str, str] = field(default_factory=dict)
    """What opens the worker, once it has proven that it holds the cluster token."""
    in_flight: int = 0
    """Requests of this controller that it is answering."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is no longer known: whoever still waits for its first byte need not."""
    _in_flight_when_heard: int = 0
    _handed_out: int = 0
    _doubted: bool = False
    _failures: int = 0
    _rests_until_s: float = float("-inf")

    @property
    def name(self) -> str:
        return self.address.name

    @property
    def load(self) -> float:
        """Requests it has to answer, in units of its speed."""
        elsewhere = max(0, self.queue_length - self._in_flight_when_heard)
        return (self.in_flight + elsewhere + self._handed_out) / self.speed

    def heard(self, now_s: float, queue_length: int) -> None:
        """It has said that it lives."""
        self.last_heard_s = now_s
        self.queue_length = queue_length
        self._in_flight_when_heard = self.in_flight
        self._handed_out = 0
        self._doubted = False

    def failed(self, now_s: float) -> None:
        """It gave no answer: it gets nothing until it is heard of, and after failures in a row a longer rest."""
        self._doubted = True
        self._failures += 1
        self._rests_until_s = now_s + min(_LONGEST_PENALTY_S, 2.0**self._failures - 2)

    def answered(self) -> None:
        self._failures = 0

    def rest_is_over(self) -> None:
        """It has started anew: its failures are forgotten."""
        self._failures, self._rests_until_s = 0, float("-inf")

    def handed_out(self) -> None:
        """Its address was given to a client, which will ask it directly."""
        self._handed_out += 1

    def is_routable(self, now_s: float) -> bool:
        return not self._doubted and now_s >= self._rests_until_s


class Registry:
    """The workers of one controller."""

    def __init__(
        self,
        dispatch_method: DispatchMethod = "shortest_queue",
        *,
        expiration_s: float = HEART_BEAT_EXPIRATION_S,
        max_workers: int = 256,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ):
        self._dispatch_method = dispatch_method
        self.expiration_s = expiration_s
        self._max_workers = max_workers
        self._clock = clock
        self._rng = rng or random.Random()
        self._workers: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(tuple(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, key: str) -> Worker | None:
        """The worker whose address has this key (`WorkerAddress.key`)."""
        return self._workers.get(key)

    # Coming and going

    def check_free(self, address: WorkerAddress, owner: str, model_names: Collection[str] = ()) -> None:
        """Whether `owner` may register this address with these models.

        Raises:
            WorkerConflict: the address, or one of the models, belongs to live workers of another owner.
            TryAgain: there are as many workers as may be.
        """
        known = self._workers.get(address.key)
        if known is not None and known.owner != owner:
            raise WorkerConflict(
                f"worker {address.name} is registered by another owner. Use that owner's token, or wait until the "
                "worker there has ended."
            )
        for worker in self._workers.values():
            taken = set(worker.model_names).intersection(model_names)
            if taken and worker.owner != owner:
                raise WorkerConflict(
                    f"model {min(taken)!r} is served by workers of another owner. Use that owner's token, or another "
                    "--model-name."
                )
        if known is None and len(self._workers) >= self._max_workers:
            raise TryAgain(f"there are {self._max_workers} workers, which is the limit.", retry_after_s=30)

    def register(
        self,
        address: WorkerAddress,
        status: WorkerStatus,
        *,
        owner: str = TOKENLESS,
        check_heart_beat: bool = True,
        auth_headers: dict[str, str] | None = None,
    ) -> Worker:
        """Adds a worker, or renews the one at this address: there is never more than one.

        Raises:
            WorkerConflict, TryAgain: see `check_free`.
        """
        self.check_free(address, owner, status.model_names)
        now_s = self._clock()
        worker = self._workers.get(address.key)
        if worker is None:
            worker = Worker(address, owner, registered_at=int(time.time()))
            self._workers[address.key] = worker
        # One that is known is renewed in its place: what it is still answering stays counted.
        worker.address = address
        worker.model_names = tuple(dict.fromkeys(status.model_names))
        worker.speed = status.speed
        worker.check_heart_beat = check_heart_beat
        worker.auth_headers = auth_headers or {}
        worker.rest_is_over()
        worker.heard(now_s, status.queue_length)
        return worker

    def heart_beat(self, key: str, queue_length: int) -> bool:
        """Notes that a worker lives; False when it has to register (again)."""
        worker = self._workers.get(key)
        if worker is None:
            return False
        worker.heard(self._clock(), queue_length)
        return True

    def remove(self, worker: Worker) -> None:
        """Forgets a worker; a request that it is answering may go on."""
        if self._workers.get(worker.address.key) is worker:
            del self._workers[worker.address.key]
            worker.gone.set()

    def expire(self) -> list[Worker]:
        """Removes and returns the workers whose heartbeats have stayed away."""
        limit = self._clock() - self.expiration_s
        silent = [worker for worker in self if worker.check_heart_beat and worker.last_heard_s < limit]
        for worker in silent:
            self.remove(worker)
        return silent

    # Routing

    def models(self) -> list[str]:
        """Names of all models, sorted."""
        return sorted({name for worker in self for name in worker.model_names})

    def registered_at(self, model: str) -> int:
        """When the first of a model's workers came, in seconds since 1970.

        Raises:
            ModelNotFound: no worker serves it.
        """
        return min(worker.registered_at for worker in self._serving(model))

    def choose(self, model: str, *, exclude: Collection[Worker] = ()) -> Worker:
        """The worker that gets the next request for `model`.

        Raises:
            ModelNotFound: no worker serves it.
            NoWorker: none of its workers can be reached now, or all are in `exclude`.
        """
        now_s = self._clock()
        usable = [w for w in self._serving(model) if w not in exclude and w.is_routable(now_s)]
        if not usable:
            raise NoWorker(
                f"model {model!r} has no worker that answers now. Try again in a few seconds.", retry_after_s=5
            )
        if self._dispatch_method == "lottery":
            return self._rng.choices(usable, [worker.speed for worker in usable])[0]
        # Of two taken at random the less busy: what is known of loads is always a little old, and several controllers
        # that all send to the one least busy worker would swamp it.
        return min(self._rng.sample(usable, min(2, len(usable))), key=lambda worker: worker.load)

    def failed(self, worker: Worker) -> None:
        """Notes that a worker gave no answer; see `Worker.failed`."""
        worker.failed(self._clock())

    @contextlib.contextmanager
    def lease(self, worker: Worker) -> Iterator[None]:
        """Counts one request of ours at `worker` as long as the block runs."""
        worker.in_flight += 1
        try:
            yield
        finally:
            worker.in_flight -= 1

    def totals(self) -> WorkerStatus | None:
        """All workers as if they were one, for a controller above this one; None while there are none."""
        if not self._workers:
            return None
        return WorkerStatus(
            model_names=self.models()[:MAX_MODELS_A_WORKER],
            speed=sum(worker.speed for worker in self),
            queue_length=sum(max(worker.queue_length, worker.in_flight) for worker in self),
        )

    def figures(self) -> list[tuple[str, bool, int, float]]:
        """Of each worker: name, whether it gets requests, requests under way, seconds since it was heard of."""
        now_s = self._clock()
        return [(w.name, w.is_routable(now_s), w.in_flight, now_s - w.last_heard_s) for w in self]

    def _serving(self, model: str) -> list[Worker]:
        serving = [worker for worker in self if model in worker.model_names]
        if not serving:
            raise ModelNotFound(model, self.models())
        return serving
