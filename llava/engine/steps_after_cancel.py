"""Counts the steps that a model spends on requests which nobody waits for any more."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

_REMEMBERED: Final = 1024
"""Cancelled requests still counted; far more than run at once."""


class StepsAfterCancel:
    """Told of each step as it begins, from the model's thread, and of each request as its client goes, from any thread.

    A step counts for a cancelled request that is part of it when it begins, and so does the one under way when the
    client goes. Where that one was just over, it is counted all the same: one too many at most, never one too few.
    """

    def __init__(self) -> None:
        self.total = 0
        """Steps, summed over all cancelled requests."""
        self.most = 0
        """Steps of the one request that had the most."""
        self._lock = threading.Lock()
        self._under_way: frozenset[int] = frozenset()
        self._cancelled: OrderedDict[int, int] = OrderedDict()

    def begins(self, requests: Iterable[int]) -> None:
        """A step begins, with these requests in it."""
        with self._lock:
            self._under_way = frozenset(requests)
            for number in self._under_way & self._cancelled.keys():
                self._count(number)

    def cancelled(self, number: int) -> None:
        """From now on nobody waits for this request."""
        with self._lock:
            self._cancelled[number] = 0
            if number in self._under_way:
                self._count(number)
            while len(self._cancelled) > _REMEMBERED:
                self._cancelled.popitem(last=False)

    def _count(self, number: int) -> None:
        self._cancelled[number] += 1
        self.total += 1
        self.most = max(self.most, self._cancelled[number])
