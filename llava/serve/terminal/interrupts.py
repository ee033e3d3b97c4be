"""Lets Ctrl-C end the current work without ending the program."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The user pressed Ctrl-C; the work has ended and cleaned up."""


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` until it ends or Ctrl-C is pressed.

    Raises:
        Interrupted: Ctrl-C was pressed.
    """
    task = asyncio.ensure_future(work)
    pressed = False

    def stop() -> None:
        nonlocal pressed
        if not pressed:  # a second Ctrl-C would interrupt the clean-up and leave the model running
            pressed = True
            task.cancel()

    with _on_interrupt(stop):
        try:
            return await task
        except asyncio.CancelledError:
            if not pressed:
                raise
            raise Interrupted from None


@contextmanager
def _on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
