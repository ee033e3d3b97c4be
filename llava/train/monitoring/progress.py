"""Shows how far a run is: one bar in a terminal, and a line for each logged step elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.train.monitoring.speed import Speed, peak_memory

_QUIET_S = 60.0
"""A line is printed at least this often, even if no step is logged."""
_COLUMNS, _ROWS = 120, 24
"""Size of a terminal that does not say how large it is."""
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"


def say(text: str, *, stream: TextIO | None = None) -> None:
    """Prints a line, above the bar if there is one."""
    stream = stream or sys.stdout
    tqdm.write(f"[llava.train] {text}", file=stream)
    stream.flush()


class ProgressDisplay(TrainerCallback):
    """Prints loss, speed, memory and the time left, in the first process."""

    def __init__(
        self, speed: Speed, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            speed: the rates of the run.
            stream: where to print; None takes the standard output.
            clock: returns the time in seconds.
        """
        self._speed = speed
        self._stream = stream or sys.stdout
        self._clock = clock
        self._bar: tqdm[Any] | None = None
        self._loss = ""
        self._started, self._last_line = clock(), clock()
        self.first_step = 0
        """The number of steps that were done before the run was resumed."""

    def close(self) -> None:
        """Ends the bar, so that what is printed next has a line of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prints what is going to happen."""
        self._started, self.first_step = self._clock(), state.global_step
        if not state.is_world_process_zero:
            return
        epochs = f"--num_train_epochs {args.num_train_epochs:g}"
        if args.max_steps > 0:
            epochs = f"--max_steps {args.max_steps}"
        where = f" from step {state.global_step + 1:,}" if state.global_step else ""
        if state.global_step >= state.max_steps:
            self._say(f"all {state.max_steps:,} steps are done")
            return
        self._say(f"training: {state.max_steps:,} steps{where} ({epochs})")
        if self._stream.isatty() and not args.disable_tqdm:
            lacks_size = _columns(self._stream) == 0
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                file=self._stream,
                bar_format=_BAR,
                dynamic_ncols=not lacks_size,
                ncols=_COLUMNS if lacks_size else None,
                nrows=_ROWS if lacks_size else None,
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar on, or prints a line if nothing was printed for a while."""
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._facts(args, {})), refresh=False)
            self._bar.update(state.global_step - self._bar.n)
        elif state.is_world_process_zero and not control.should_log and self._clock() - self._last_line > _QUIET_S:
            self._say(", ".join([_position(state), *self._facts(args, {}), self._left(state)]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prints a logged step, or the result of a validation."""
        if not state.is_world_process_zero or not logs:
            return
        if "eval_loss" in logs:
            result = f"validation loss {logs['eval_loss']:.4f}, perplexity {logs['eval_perplexity']:.4g}"
            self._say(f"{_position(state)}, {result} ({logs['eval_samples']:,} samples)")
        elif "loss" in logs:
            self._loss = f"loss {float(logs['loss']):.4f}"
            if self._bar is not None:
                narrow = {name: logs[name] for name in logs if name not in ("grad_norm", "learning_rate")}
                self._bar.set_postfix_str(", ".join(self._facts(args, narrow)))
            else:
                self._say(", ".join([_position(state), *self._facts(args, logs), self._left(state)]))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the bar."""
        self.close()

    def _facts(self, args: TrainingArguments, logs: Mapping[str, Any]) -> list[str]:
        """Describes loss, speed and memory: of the logged steps, or since the last of them."""
        facts = [self._loss] if self._loss else []
        if logs.get("grad_norm") is not None:
            facts.append(f"gradient norm {float(logs['grad_norm']):.3g}")
        if logs.get("learning_rate") is not None:
            facts.append(f"learning rate {float(logs['learning_rate']):.3g}")
        rates = logs if "samples_per_second" in logs else self._rates(args)
        facts.append(f"{rates['samples_per_second']:,.1f} samples/s")
        facts.append(f"{rates['supervised_tokens_per_second']:,.0f} supervised tokens/s")
        facts.append(f"{rates['memory_gb']:.1f} GB")
        return facts

    def _rates(self, args: TrainingArguments) -> dict[str, float]:
        device = args.device if isinstance(args.device, torch.device) else torch.device(args.device)
        return self._speed.rates(restart=False) | peak_memory(device)

    def _left(self, state: TrainerState) -> str:
        done = max(1, state.global_step - self.first_step)
        seconds = (self._clock() - self._started) / done * (state.max_steps - state.global_step)
        return f"{duration(seconds)} left"

    def _say(self, text: str) -> None:
        self._last_line = self._clock()
        say(text, stream=self._stream)


def _columns(stream: TextIO) -> int:
    """Returns the width of a terminal; 0 if it does not say, as in some containers."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 0


def _position(state: TrainerState) -> str:
    total = max(1, state.max_steps)
    return f"step {state.global_step:,}/{total:,} ({100 * state.global_step / total:.0f} %)"


def duration(seconds: float) -> str:
    """Describes a duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
