"""Records everything that is logged in `metrics.jsonl`.

The file is one history of the run, however often it was stopped and resumed: lines of steps that are repeated are cut
away first, and a loss that is logged after a resume covers the same steps as without the interruption.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.files.json_files import write_text
from llava.train.monitoring.speed import Speed

METRICS_FILE = "metrics.jsonl"


class MetricsFile(TrainerCallback):
    """Appends everything that is logged to `metrics.jsonl`, in the first process."""

    def __init__(self, speed: Speed) -> None:
        """
        Args:
            speed: the clock of the run, which goes on from what the file says.
        """
        self._speed = speed

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Cuts away what an interrupted run logged after the checkpoint that this one resumes from."""
        if state.is_world_process_zero:
            last = keep_until(Path(str(args.output_dir)) / METRICS_FILE, state.global_step)
            self._speed.earlier_s = float(last.get("seconds", 0.0))
        self._speed.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Appends one line."""
        if state.is_world_process_zero and logs:
            entry = {"step": state.global_step, "epoch": state.epoch, **logs}
            line = json.dumps({name: _plain(value) for name, value in entry.items()})
            file = Path(str(args.output_dir)) / METRICS_FILE
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")


def _plain(value: Any) -> Any:
    """Returns a value that JSON has; it has no infinite numbers."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def keep_until(file: Path, step: int) -> dict[str, Any]:
    """Removes the lines of later steps, the summary of a run that had ended, and a line that was cut off.

    Returns:
        The last line of a step that is kept; empty if there is none.
    """
    if not file.is_file():
        return {}
    kept: list[str] = []
    last: dict[str, Any] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and 0 < step >= entry.get("step", 0) and "train_runtime" not in entry:
            kept.append(line + "\n")
            last = entry if "seconds" in entry else last
    write_text(file, "".join(kept))
    return last


@dataclass(frozen=True, slots=True)
class UnloggedLoss:
    """The losses of the steps between the last logged one and a checkpoint.

    The Trainer logs the mean of the steps since the last log, and forgets those before a checkpoint.
    """

    last_logged_step: int
    """The last step that was logged."""
    sums: tuple[float, ...]
    """Sum of the losses since then, for each process."""

    KEY = "unlogged_loss"

    def write(self, state: TrainerState) -> None:
        """Records the losses in the state of a checkpoint."""
        saved: Any = state.stateful_callbacks
        saved[self.KEY] = {"last_logged_step": self.last_logged_step, "sums": list(self.sums)}

    @classmethod
    def read(cls, state: TrainerState) -> UnloggedLoss | None:
        """Returns what a checkpoint's state records; None for one that has nothing."""
        states: Any = state.stateful_callbacks
        saved = states.get(cls.KEY)
        return None if saved is None else cls(saved["last_logged_step"], tuple(saved["sums"]))

    def of_process(self, process: int, processes: int) -> float:
        """Returns the sum of one process; with another number of processes than before, each takes the mean."""
        if len(self.sums) == processes:
            return self.sums[process]
        return sum(self.sums) / max(1, len(self.sums))


class LossRestorer(TrainerCallback):
    """Restores the losses that a checkpoint's run had not logged, once the Trainer has set its own to 0."""

    def __init__(self, restore: Callable[[TrainerState], None]) -> None:
        """
        Args:
            restore: takes the losses up from a state.
        """
        self._restore = restore

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restores the losses."""
        self._restore(state)
