"""Counts the steps that a model spends on cancelled requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

_REMEMBERED: Final = 1024
"""Number of cancelled requests that are still counted; far more than run at once."""


class StepsAfterCancel:
    """Counts, for each cancelled request, the steps that include it.

    The step in progress at the moment of cancellation counts, and so does each later step that includes the request. If
    the step in progress had just ended, the count is one too high; it is never too low.
    """

    def __init__(self) -> None:
        self.total = 0
        """Number of steps, summed over all cancelled requests."""
        self.most = 0
        """The largest number of steps for a single request."""
        self._lock = threading.Lock()
        self._in_progress: frozenset[int] = frozenset()
        self._cancelled: OrderedDict[int, int] = OrderedDict()

    def begins(self, requests: Iterable[int]) -> None:
        """Records that a step with these requests begins. Called on the model's thread."""
        with self._lock:
            self._in_progress = frozenset(requests)
            for number in self._in_progress & self._cancelled.keys():
                self._count(number)

    def cancelled(self, number: int) -> None:
        """Records that a request was cancelled. Called on any thread."""
        with self._lock:
            self._cancelled[number] = 0
            if number in self._in_progress:
                self._count(number)
            while len(self._cancelled) > _REMEMBERED:
                self._cancelled.popitem(last=False)

    def _count(self, number: int) -> None:
        self._cancelled[number] += 1
        self.total += 1
        self.most = max(self.most, self._cancelled[number])
