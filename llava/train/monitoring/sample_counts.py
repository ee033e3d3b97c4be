"""Counts samples and tokens over all processes, and refuses to go on when too many samples teach nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from llava.errors import DataError
from llava.train.data.collator import BatchReport

_ENOUGH_SAMPLES = 64
"""Number of samples to see before the fraction of useless ones is checked."""
_EXAMPLES = 3
"""Number of truncated records to name."""


@dataclass(slots=True)
class SampleCounts:
    """Counts over all processes since the run was started or resumed."""

    seen: int = 0
    """Samples that were trained on, bad ones not counted."""
    truncated: int = 0
    """Samples that were cut to fit."""
    useless: int = 0
    """Samples without any answer token to learn."""
    tokens: int = 0
    """Positions in the model, without padding."""
    supervised: int = 0
    """Tokens that the loss is computed on."""
    bad: int = 0
    """Records that could not be made into samples, each time that they were met."""
    examples: list[str] = field(default_factory=list)
    """Names of the first records that were cut."""

    def add(
        self,
        reports: Sequence[BatchReport],
        supervised: int,
        *,
        processes: int,
        device: torch.device,
        join: Callable[[list[str]], list[str]],
    ) -> int:
        """Adds the batches of one step of this process, and those of all others.

        Args:
            reports: reports of this process's batches.
            supervised: supervised tokens of the step, of all processes.
            join: joins the lists of all processes.

        Returns:
            The number of bad records of this step in all processes. Every process gets the same.
        """
        rows = sum(len(report.names) for report in reports)
        bad = sum(len(report.bad) for report in reports)
        truncated = [name for report in reports for name in report.truncated]
        mine = [
            rows - bad,
            len(truncated),
            sum(report.useless for report in reports),
            sum(report.tokens for report in reports),
            bad,
        ]
        if processes > 1:
            total = torch.tensor(mine, dtype=torch.long, device=device)
            torch.distributed.all_reduce(total)
            mine = total.tolist()
        self.seen += mine[0]
        self.truncated += mine[1]
        self.useless += mine[2]
        self.tokens += mine[3]
        self.bad += mine[4]
        self.supervised += supervised
        if mine[1] and len(self.examples) < _EXAMPLES:  # the same in every process, so all join or none does
            self.examples = list(dict.fromkeys(self.examples + join(truncated)))[:_EXAMPLES]
        return mine[4]

    def check(self, max_useless_fraction: float, num_records: int) -> None:
        """
        Raises:
            DataError: no record can be used, or too many samples have no answer to learn; in every process, or in none.
        """
        enough = min(_ENOUGH_SAMPLES, num_records)
        if self.seen == 0 and self.bad >= enough:
            raise DataError(
                f"none of the first {self.bad} records could be used. Check --image_folder; "
                "`llava data check --images` lists what is wrong."
            )
        if self.seen >= enough and self.useless > max_useless_fraction * self.seen:
            raise DataError(
                f"{self.useless} of the first {self.seen} samples have no answer left to learn "
                f"({self.truncated} were truncated). Raise --model_max_length, check --version and the data, "
                "or raise --max_useless_fraction."
            )

    def describe_truncated(self) -> str:
        """Names the first records that were cut, in one line."""
        named = f", such as {', '.join(self.examples)}" if self.examples else ""
        return f"samples were cut to --model_max_length{named}; `llava data check` lists all of them"

    def describe(self) -> str:
        """Describes the counts in one line."""
        bad = f", {self.bad} bad ones skipped" if self.bad else ""
        taught = f"{self.truncated} of them truncated, {self.useless} without an answer to learn"
        return f"{self.seen} samples, {taught}{bad}"
