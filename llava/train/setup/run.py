"""Reads and checks everything of a run that needs no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava.errors import InvalidRequest
from llava.train.checkpoints.identity import run_identity
from llava.train.data.layouts import training_template
from llava.train.data.record_checks import check_records, judge_missing, missing_images
from llava.train.data.records import load_records
from llava.train.monitoring.bad_samples import check_policy
from llava.train.setup.evaluation import describe_evaluation, fit_evaluation
from llava.train.setup.flag_check import check_flags
from llava.train.setup.model_and_data import eval_image_folder, image_folder

if TYPE_CHECKING:
    from llava.train.checkpoints.identity import Identity
    from llava.train.data.records import Record
    from llava.train.setup.arguments import DataArguments, ModelArguments
    from llava.train.setup.training_arguments import TrainingArguments


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run before its model is loaded."""

    records: list[Record]
    identity: Identity
    held_out: list[Record] | None = None
    """Records of `--eval_data_path`."""


def read_run(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> Run:
    """Reads and checks the data of a run.

    Raises:
        DataError: the training file cannot be used.
    """
    for note in training_args.notes:
        training_args.say(note)
    check_flags(model_args, training_args)
    check_policy(data_args.on_bad_sample, data_args.max_bad_samples)
    fit_evaluation(data_args, training_args)
    records = _checked_records(str(data_args.data_path), image_folder(data_args), model_args, data_args, training_args)
    if model_args.tune_mm_mlp_adapter and not any(record.images for record in records):
        raise InvalidRequest(
            f"{data_args.data_path}: no record has an image, so --tune_mm_mlp_adapter would train nothing. Give each "
            "record its 'image', or fine-tune without the flag."
        )
    held_out = None
    if data_args.eval_data_path is not None:
        folder = eval_image_folder(data_args)
        held_out = _checked_records(data_args.eval_data_path, folder, model_args, data_args, training_args)
        training_args.say(describe_evaluation(training_args, len(held_out)))
    return Run(records, run_identity(model_args, data_args, training_args, len(records)), held_out)


def _checked_records(
    file: str, folder: Path, model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> list[Record]:
    """Reads a file, checks its records against the template, and looks for all of their images."""
    first = training_args.process_index == 0
    training_args.say(f"reading {file} ...")
    records = load_records(file, allow_outside=data_args.allow_outside_images)
    template = training_template(model_args.version, model_args.model_name_or_path)
    for line in check_records(records, template, file=file, version=model_args.version):
        training_args.say(line)
    if first:  # it looks for all
        maximum = data_args.max_bad_samples if file == data_args.data_path else None
        policy = data_args.on_bad_sample
        missing = missing_images(records, folder, say=lambda line: training_args.say(line))
        for line in judge_missing(missing, file=file, folder=folder, policy=policy, maximum=maximum):
            training_args.say(line)
    return records
