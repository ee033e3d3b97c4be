"""Ending tasks so that what they clean up is clean afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks and waits until each has cleaned up behind itself; what they raise is dropped.

    Each is cancelled once, and the waiting is shielded from the cancellation that may have led here: a second one would
    interrupt a task in its `finally`, and leave a connection open that nobody closes any more.
    """
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    if pending:
        with anyio.CancelScope(shield=True):
            await asyncio.wait(pending)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # asked for, so that asyncio does not report it as lost
