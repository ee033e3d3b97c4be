"""Relates the flags of the validation loss to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava.errors import InvalidRequest
from llava.train.setup.arguments import DataArguments

if TYPE_CHECKING:
    from llava.train.setup.training_arguments import TrainingArguments

_METRICS = (None, "loss", "eval_loss")


def fit_evaluation(data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Chooses when to measure the validation loss: as `--eval_strategy` says, else after each epoch.

    Raises:
        InvalidRequest: a flag asks for an evaluation, but there are no held-out records; or the best checkpoint is to
            be chosen by something that is not measured.
    """
    from transformers.trainer_utils import IntervalStrategy

    if data_args.eval_data_path is None:
        if wanted := _asked_for(data_args, training_args):
            raise InvalidRequest(f"{wanted}: needs held-out records. Set --eval_data_path, or remove the flag.")
        return
    metric = training_args.metric_for_best_model
    if metric not in _METRICS:
        raise InvalidRequest(f"--metric_for_best_model {metric}: is not measured. Use eval_loss.")
    if metric is not None and training_args.greater_is_better:
        raise InvalidRequest("--greater_is_better True: would choose the checkpoint with the largest loss.")
    if training_args.eval_strategy == IntervalStrategy.NO:
        training_args.eval_strategy = IntervalStrategy.EPOCH


def _asked_for(data_args: DataArguments, training_args: TrainingArguments) -> str | None:
    """Returns the flag that asks for an evaluation; None if there is none."""
    from transformers.trainer_utils import IntervalStrategy

    if training_args.load_best_model_at_end:
        return "--load_best_model_at_end"
    if training_args.eval_steps:
        return f"--eval_steps {training_args.eval_steps:g}"
    if training_args.eval_strategy != "no":
        return f"--eval_strategy {IntervalStrategy(training_args.eval_strategy).value}"
    if training_args.eval_on_start:
        return "--eval_on_start"
    if training_args.do_eval:
        return "--do_eval"
    if data_args.eval_image_folder is not None:
        return "--eval_image_folder"
    return None


def describe_evaluation(training_args: TrainingArguments, num_records: int) -> str:
    """Describes in one line what the validation loss is measured on, and when."""
    every, when = training_args.eval_steps, "after each epoch"
    if training_args.eval_strategy == "steps" and every:
        when = (
            "after each step"
            if every == 1
            else f"every {every:g} steps"
            if every >= 1
            else f"after every {every:.0%} of the steps"
        )
    return f"validation: {num_records:,} held-out records, {when}"
