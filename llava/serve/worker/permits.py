"""Limits how many choices a worker writes at once, and how many more may wait.

A request reserves its places before any work is done for it, and gives them back when its `with` block ends, for
whatever reason. Nothing else changes the counts, so they return to zero after any number of errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Final

from llava.errors import QueueFull

DEFAULT_MAX_QUEUE: Final = 64
"""Number of choices that may wait for a permit."""


class Permits:
    """The places of a worker, given out in order of arrival. Belongs to one event loop."""

    def __init__(self, limit: int, max_queue: int, *, on_wait: Callable[[float], None] = lambda seconds: None):
        """
        Args:
            limit: number of choices written at once.
            max_queue: number of choices that may wait.
            on_wait: called with the seconds that each choice waited for its permit.
        """
        self.limit = limit
        self.max_queue = max_queue
        self.in_use = 0
        """Number of choices being written."""
        self.waiting = 0
        """Number of choices that wait for a permit, or whose request is still being prepared."""
        self._free = asyncio.Semaphore(limit)
        self._on_wait = on_wait

    @property
    def queue_length(self) -> int:
        """Number of running and waiting choices, as heartbeats report it."""
        return self.in_use + self.waiting

    @contextmanager
    def reserve(self, count: int) -> Iterator[Reservation]:
        """Reserves places for all `count` choices of a request, or for none.

        Raises:
            QueueFull: there are not enough places.
        """
        if self.queue_length + count > self.limit + self.max_queue:
            raise QueueFull(
                f"this worker is full: {self.in_use} answers are being written and {self.waiting} are waiting. "
                "Ask again in a moment."
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
        """Waits for a permit and holds it for the length of an `async with` block."""
        return self._permits._hold(self)
