"""Knows in which tabs an answer is being written, so that a tab writes one answer at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Final

from llava.errors import InvalidRequest

_PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.05


class BusyTabs:
    """Tabs by gradio's session. Belongs to the page's event loop."""

    def __init__(self) -> None:
        self._writing: set[str | None] = set()

    @contextlib.contextmanager
    def writing(self, tab: str | None) -> Iterator[None]:
        """Marks a tab as busy while an answer is written in it."""
        self._writing.add(tab)
        try:
            yield
        finally:
            self._writing.discard(tab)

    async def wait_until_idle(self, tab: str | None) -> None:
        """Returns when no answer is being written in the tab; an answer that was stopped takes a moment to end.

        Raises:
            InvalidRequest: the answer did not end within half a minute.
        """
        until_s = time.monotonic() + _PATIENCE_S
        while tab in self._writing:
            if time.monotonic() > until_s:
                raise InvalidRequest("the previous answer is still being written. Wait for it to end, or stop it.")
            await asyncio.sleep(_POLL_S)
