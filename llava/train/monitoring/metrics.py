"""Measures a run, records it in `metrics.jsonl`, and prints a line for each logged step.

`metrics.jsonl` is one history of the run, however often it was stopped and resumed: lines of steps that are repeated
are cut away first. The same numbers go to the trackers of `--report_to`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.files.json_files import write_text
from llava.train.monitoring.sample_counts import SampleCounts

METRICS_FILE = "metrics.jsonl"


@dataclass(slots=True)
class Speed:
    """Rates between two logged steps, of all processes together."""

    counts: SampleCounts
    started: float = field(default_factory=time.monotonic)
    _last: tuple[float, int, int, int] | None = None

    def rates(self) -> dict[str, float]:
        """Returns samples and tokens a second since the last call, the memory of this process, and the time so far."""
        now = time.monotonic()
        before, seen, tokens, supervised = self._last or (self.started, 0, 0, 0)
        elapsed = max(now - before, 1e-9)
        counts = self.counts
        self._last = (now, counts.seen, counts.tokens, counts.supervised)
        return {
            "samples_per_second": round((counts.seen - seen) / elapsed, 3),
            "tokens_per_second": round((counts.tokens - tokens) / elapsed, 1),
            "supervised_tokens_per_second": round((counts.supervised - supervised) / elapsed, 1),
            "memory_gb": round(peak_memory() / 1e9, 3),
            "seconds": round(now - self.started, 3),
        }


def peak_memory() -> int:
    """Returns the peak memory of this process in bytes: of its GPU if it has one, else of the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MetricsFile(TrainerCallback):
    """Appends everything that is logged to `metrics.jsonl`."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Cuts away what an interrupted run logged after the checkpoint that this one resumes from."""
        if state.is_world_process_zero:
            keep_until(Path(str(args.output_dir)) / METRICS_FILE, state.global_step)

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
            line = json.dumps({"step": state.global_step, "epoch": state.epoch, **logs}, default=float)
            file = Path(str(args.output_dir)) / METRICS_FILE
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")


def keep_until(file: Path, step: int) -> None:
    """Removes the lines of later steps, the summary of a run that had ended, and a line that was cut off."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("step", 0) <= step and step > 0 and "train_runtime" not in entry:
            kept.append(line + "\n")
    write_text(file, "".join(kept))


class ProgressLine(TrainerCallback):
    """Prints one line of plain text for each logged step: it reads as well in a log file as in a terminal."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prints what is going to happen."""
        self._started, self._first = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            where = f" from step {state.global_step}" if state.global_step else ""
            _say(f"training {state.max_steps:,} steps{where}, over {state.num_train_epochs} x the data")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prints the step, or the result of a validation."""
        if not state.is_world_process_zero or not logs:
            return
        if "eval_loss" in logs:
            _say(f"step {state.global_step}: validation loss {logs['eval_loss']:.4f}")
        elif "loss" in logs:
            _say(self._line(state, logs))

    def _line(self, state: TrainerState, logs: dict[str, Any]) -> str:
        done, total = state.global_step, max(1, state.max_steps)
        parts = [f"step {done:,}/{total:,} ({100 * done / total:.0f} %)", f"loss {float(logs['loss']):.4f}"]
        if logs.get("grad_norm") is not None:
            parts.append(f"gradient norm {float(logs['grad_norm']):.3g}")
        parts.append(f"learning rate {float(logs.get('learning_rate', 0)):.3g}")
        if "samples_per_second" in logs:
            parts.append(f"{logs['samples_per_second']:,.1f} samples/s")
            parts.append(f"{logs['supervised_tokens_per_second']:,.0f} supervised tokens/s")
            parts.append(f"{logs['memory_gb']:.1f} GB")
        elapsed, steps = time.monotonic() - self._started, done - self._first
        if steps > 0:
            parts.append(f"{duration(elapsed / steps * (total - done))} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Describes a duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _say(text: str) -> None:
    print(f"[llava.train] {text}", flush=True)
