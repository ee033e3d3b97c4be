"""Identifies this process among those that torchrun started, which share the questions of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TorchrunProcess:
    """This process among those that torchrun started; a process that was started alone is the first of one."""

    rank: int = 0
    """Number of this process; the first is 0."""
    size: int = 1
    """Number of processes."""
    local_rank: int | None = None
    """Number of this process on this machine; None if there is only one process."""

    @classmethod
    def of_environment(cls) -> TorchrunProcess:
        """Reads torchrun's environment variables."""
        rank, size = os.environ.get("RANK"), int(os.environ.get("WORLD_SIZE", "1"))
        if rank is None or size < 2:
            return cls()
        return cls(int(rank), size, int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0
