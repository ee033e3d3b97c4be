"""Where a service stands between its start and its end: who may still come in, and who is still inside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum

from llava.errors import LlavaError, ShuttingDown

logger = logging.getLogger("llava.serve")


_LAST_WORDS_S = 1.0
"""For requests that are cut off to say so to their clients."""


class Phase(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """State of one service; belongs to its event loop, like everything that reads it."""

    def __init__(self) -> None:
        self.phase = Phase.READY  # an app that nobody starts by `serve` (a test, another server) is simply there
        self.active = 0
        """Requests being answered, those for health and metrics not counted."""
        self._on_drain: list[Callable[[], Awaitable[None]]] = []
        self._on_cut_off: list[Callable[[], None]] = []

    @property
    def draining(self) -> bool:
        return self.phase is Phase.DRAINING

    def on_drain(self, callback: Callable[[], Awaitable[None]]) -> None:
        """`callback` runs as soon as draining begins, beside the requests that are being finished."""
        self._on_drain.append(callback)

    def on_cut_off(self, callback: Callable[[], None]) -> None:
        """`callback` runs when draining takes too long; what still runs then has to end with `not_waited_for()`."""
        self._on_cut_off.append(callback)

    async def drain(self, timeout_s: float) -> bool:
        """Takes nothing new and waits for what there is.

        False when `timeout_s` passed before all were done; the rest was told to end then, and had a second to do so.
        """
        self.phase = Phase.DRAINING
        callbacks = [asyncio.ensure_future(self._call(callback)) for callback in self._on_drain]
        await self._wait(lambda: not self.active and all(task.done() for task in callbacks), timeout_s)
        if not self.active:
            return True
        for cut in self._on_cut_off:
            cut()
        await self._wait(lambda: not self.active, _LAST_WORDS_S)
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
            logger.warning("while shutting down: %s", error)


def not_waited_for() -> ShuttingDown:
    """The last word to a client whose answer is not waited for."""
    return ShuttingDown("this server shuts down and could not finish the answer. Send the request again.")
