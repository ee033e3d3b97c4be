"""Lets the first of several processes report what all of them find out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from llava.errors import LlavaError

Decision = TypeVar("Decision")

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


def decided_by_first(decide: Callable[[], Decision]) -> Decision:
    """Calls a function in the first process alone, and returns its result in every process.

    An error is raised in the first process; the others wait until their launcher ends them.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return decide()
    results = [decide() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(results, src=0)
    return results[0]  # type: ignore[return-value]
