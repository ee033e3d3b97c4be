"""How many answers a worker gives at once, and how many more may wait.

A request reserves its places before anything is done for it, and gives back what it holds when its `with` block ends,
however that happens. Nothing else changes the counts, so they return to zero after any number of errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from llava.errors import QueueFull


class Permits:
    """Places of a worker, given out in order of arrival. Belongs to one event loop."""

    def __init__(self, limit: int, max_queue: int, *, on_wait: Callable[[float], None] = lambda seconds: None):
        """`on_wait` is told how long each answer waited for its place."""
        self.limit = limit
        self.max_queue = max_queue
        self.in_use = 0
        """Answers being generated."""
        self.waiting = 0
        """Answers that have a place in the queue, or whose request is still being prepared."""
        self._free = asyncio.Semaphore(limit)
        self._on_wait = on_wait

    @property
    def queue_length(self) -> int:
        """Running and waiting answers together, as heartbeats report them."""
        return self.in_use + self.waiting

    @contextmanager
    def reserve(self, count: int) -> Iterator[Reservation]:
        """Places for `count` answers of one request, all or none.

        Raises:
            QueueFull: there is no place left to wait in.
        """
        if self.queue_length + count > self.limit + self.max_queue:
            raise QueueFull(
                f"{self.in_use} answers are being written here and {self.waiting} wait, which is all there is room "
                "for. Ask again in a moment."
            )
        reservation = Reservation(self, count)
        self.waiting += count
        try:
            yield reservation
        finally:
            self.waiting -= reservation.unused
            reservation.unused = 0

    @asynccontextmanager
    async def _hold(self, reservation: Reservation) -> AsyncIterator[None]:
        began_s = time.monotonic()
        await self._free.acquire()
        self._on_wait(time.monotonic() - began_s)
        reservation.unused -= 1
        self.waiting -= 1
        self.in_use += 1
        try:
            yield
        finally:
            self.in_use -= 1
            self._free.release()


class Reservation:
    """The places of one request."""

    def __init__(self, permits: Permits, count: int):
        self.unused = count
        self._permits = permits

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Waits for a free place, and holds it for the length of an `async with` block."""
        return self._permits._hold(self)
