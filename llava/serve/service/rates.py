"""Limits the request rate of each caller with a token bucket."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from llava.errors import RateLimited

_MAX_CALLERS = 10_000
"""Number of callers remembered. The least recent one is forgotten first; its bucket is full again by then."""


class RateLimiter:
    """Counts requests by caller. A caller may send ten seconds' worth of requests at once."""

    def __init__(self, requests_per_minute: int, *, clock: Callable[[], float] = time.monotonic):
        self._rate_s = requests_per_minute / 60
        self._size = max(1.0, requests_per_minute / 6)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Counts one request.

        Raises:
            RateLimited: the caller has sent too many requests; the error says how long to wait.
        """
        now = self._clock()
        level, then = self._buckets.pop(caller, (self._size, now))
        level = min(self._size, level + (now - then) * self._rate_s)
        admitted = level >= 1
        self._buckets[caller] = (level - 1 if admitted else level, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        if not admitted:
            wait_s = (1 - level) / self._rate_s
            raise RateLimited(
                f"more than {self._rate_s * 60:g} requests per minute. Wait {wait_s:.0f} s.", retry_after_s=wait_s
            )
