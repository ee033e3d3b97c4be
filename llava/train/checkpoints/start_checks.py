"""Checks, before the first step of a run, what would otherwise go wrong when it saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.errors import InvalidRequest
from llava.train.checkpoints.folders import bytes_to_write, check_space, checkpoints, num_saves


class ResumedSteps(TrainerCallback):
    """Fits what a checkpoint says of its run's steps to this run."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """
        Raises:
            InvalidRequest: the checkpoint has done more steps than the run shall have.
        """
        # The Trainer takes over the intervals of the run that saved the checkpoint.
        state.compute_steps(args, state.max_steps)
        if state.global_step > state.max_steps:
            raise InvalidRequest(
                f"{args.output_dir}: the checkpoint is at step {state.global_step}, but this run would end at step "
                f"{state.max_steps}. Remove later checkpoints, or choose another --output_dir."
            )


class SpaceCheck(TrainerCallback):
    """Stops a run before its first step if its checkpoints and its result would not fit on the disk."""

    def __init__(self, sizes: Callable[[], tuple[int, int]]) -> None:
        """
        Args:
            sizes: returns the bytes of a checkpoint and of the result.
        """
        self._sizes = sizes

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """
        Raises:
            InvalidRequest: there is not enough space.
        """
        if not args.should_save:
            return
        output_dir = Path(str(args.output_dir))
        checkpoint, result = self._sizes()
        saves, limit = 0, args.save_total_limit
        if args.save_strategy != "no":
            epoch = state.max_steps / max(1, state.num_train_epochs)
            every = state.save_steps if args.save_strategy == "steps" else epoch
            saves = num_saves(steps=max(0, state.max_steps - state.global_step), every=every)
        if limit and args.load_best_model_at_end:
            limit = max(limit, 2)  # the best one and the last one
        existing = len(checkpoints(output_dir))
        number, needed = bytes_to_write(checkpoint, result, num_saves=saves, limit=limit, num_existing=existing)
        more = "more " if existing else ""
        check_space(output_dir, needed, f"the result and {number} {more}checkpoints at a time")
