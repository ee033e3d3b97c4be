"""Lets the first of several processes report what all of them find out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from llava.errors import LlavaError

_PATIENCE_S = 10.0
"""How long another process waits for the launcher to end it before it reports its error itself."""


def rank() -> int:
    """Returns the number of this process among all, as its launcher set it; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def reported_once() -> Iterator[None]:
    """Holds an error back in all processes but the first.

    Every process reads the same flags, data and weights and meets the same errors. The first one reports at once and
    exits, and the launcher then ends the others. If it does not, the error is theirs alone and is raised.
    """
    try:
        yield
    except LlavaError:
        if rank() > 0:
            time.sleep(_PATIENCE_S)
        raise
