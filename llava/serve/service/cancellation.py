"""Cancels tasks and waits for their clean-up."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks and returns once all of them have cleaned up; their exceptions are dropped.

    Each task is cancelled exactly once, and the wait is shielded from the cancellation that may have led here. A second
    cancellation would interrupt a task in its `finally` block and leak the connection that it was closing.
    """
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    if pending:
        with anyio.CancelScope(shield=True):
            await asyncio.wait(pending)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # marks the exception as retrieved; otherwise asyncio logs a warning about it
