"""Tracks a service from its start to its end: which phase it is in, and how many requests it is answering."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum

from llava.errors import LlavaError, ShuttingDown

logger = logging.getLogger("llava.serve")


_CUT_OFF_GRACE_S = 1.0
"""Seconds that requests have to tell their clients that they were cut off."""


class Phase(Enum):
    """What a service is doing; /health/ready reports every phase but READY as a failure."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """The state of one service. Like everything that reads it, it belongs to the service's event loop."""

    def __init__(self) -> None:
        self.phase = Phase.READY  # an app that `serve` does not start (in a test, for example) is ready at once
        self.active = 0
        """Number of requests in progress; those for health and metrics do not count."""
        self._on_drain: list[Callable[[], Awaitable[None]]] = []
        self._on_cut_off: list[Callable[[], None]] = []

    @property
    def draining(self) -> bool:
        return self.phase is Phase.DRAINING

    def on_drain(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Runs `callback` as soon as draining begins, while running requests finish."""
        self._on_drain.append(callback)

    def on_cut_off(self, callback: Callable[[], None]) -> None:
        """Runs `callback` when draining times out; it must end all running requests with `cut_off_error()`."""
        self._on_cut_off.append(callback)

    async def drain(self, timeout_s: float) -> bool:
        """Refuses new requests and waits for running ones.

        Returns:
            False if requests were still running after `timeout_s` seconds. They are then told to end, and have one
            second to do so.
        """
        self.phase = Phase.DRAINING
        callbacks = [asyncio.ensure_future(self._call(callback)) for callback in self._on_drain]
        await self._wait(lambda: not self.active and all(task.done() for task in callbacks), timeout_s)
        if not self.active:
            return True
        for cut_off in self._on_cut_off:
            cut_off()
        await self._wait(lambda: not self.active, _CUT_OFF_GRACE_S)
        return False

    @staticmethod
    async def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not condition() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)

    @staticmethod
    async def _call(callback: Callable[[], Awaitable[None]]) -> None:
        try:
            await callback()
        except (LlavaError, OSError) as error:
            logger.warning("Error during shutdown: %s", error)


def cut_off_error() -> ShuttingDown:
    """Returns the error that ends a request which is still running when draining times out."""
    return ShuttingDown("this server shut down before the answer was finished. Send the request again.")
