"""Says how far a long check has come."""

from __future__ import annotations

import time

_AFTER_S = 0.3
_EVERY_S = 5.0


class ProgressReport:
    """Prints a line when a loop takes longer than a moment, and another one every few seconds."""

    def __init__(self, verb: str, total: int, what: str) -> None:
        """
        Args:
            verb: what was done, such as "opened".
            total: number of things in all.
            what: their name, in the plural.
        """
        self._verb, self._total, self._what = verb, total, what
        self._due = time.monotonic() + _AFTER_S

    def show(self, done: int) -> None:
        """Prints how many are done, if it is time."""
        if time.monotonic() >= self._due and done < self._total:
            self._due = time.monotonic() + _EVERY_S
            print(f"{self._verb} {done:,} of {self._total:,} {self._what}", flush=True)
