"""Measures how fast a run is, and how much memory it takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from llava.train.monitoring.sample_counts import SampleCounts


@dataclass(slots=True)
class Speed:
    """Rates of all processes together. Validation and saving do not count as time of training."""

    counts: SampleCounts
    """The counts that rates are taken from."""
    clock: Callable[[], float] = time.monotonic
    """Returns the time in seconds."""
    earlier_s: float = 0.0
    """Seconds that the run had taken before it was resumed."""
    _started: float = field(init=False)
    _paused_s: float = field(default=0.0, init=False)
    _last: tuple[float, int, int, int] = field(default=(0.0, 0, 0, 0), init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def start(self) -> None:
        """Marks the start of training."""
        self._started, self._paused_s, self._last = self.clock(), 0.0, self._now(0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the time of a block out of the time of training."""
        began = self.clock()
        try:
            yield
        finally:
            self._paused_s += self.clock() - began

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run, with validation and saving, without the time that it stood still."""
        return self.earlier_s + self.clock() - self._started

    @property
    def training_s(self) -> float:
        """Seconds of training since the run was started or resumed."""
        return self.clock() - self._started - self._paused_s

    def rates(self, *, restart: bool = True) -> dict[str, float]:
        """Returns samples, supervised tokens and all tokens a second, without padding.

        Args:
            restart: whether the next rates are measured from here.
        """
        last, now = self._last, self._now(self.training_s)
        if restart:
            self._last = now
        return self._between(last, now)

    def total(self) -> dict[str, float]:
        """Returns the rates since the run was started or resumed."""
        return self._between((0.0, 0, 0, 0), self._now(self.training_s))

    def _now(self, seconds: float) -> tuple[float, int, int, int]:
        return seconds, self.counts.seen, self.counts.supervised, self.counts.tokens

    @staticmethod
    def _between(last: tuple[float, int, int, int], now: tuple[float, int, int, int]) -> dict[str, float]:
        elapsed, samples, supervised, tokens = (after - before for before, after in zip(last, now, strict=True))
        elapsed = max(elapsed, 1e-9)
        return {
            "samples_per_second": round(samples / elapsed, 3),
            "supervised_tokens_per_second": round(supervised / elapsed, 1),
            "tokens_per_second": round(tokens / elapsed, 1),
        }


def peak_memory(device: torch.device) -> dict[str, float]:
    """Returns the peak memory of this process in GB (1e9 bytes).

    `memory_gb` is that of its GPU, where `memory_reserved_gb` is added, or of the host if it trains on the CPU.
    """
    if device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return {"memory_gb": round(allocated / 1e9, 3), "memory_reserved_gb": round(reserved / 1e9, 3)}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_gb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 3)}


def largest(values: dict[str, float], *, processes: int, device: torch.device) -> dict[str, float]:
    """Returns the largest of each value over all processes. Every process must call this."""
    if processes == 1:
        return values
    tensor = torch.tensor(list(values.values()), dtype=torch.float32, device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return {name: round(value, 3) for name, value in zip(values, tensor.tolist(), strict=True)}
