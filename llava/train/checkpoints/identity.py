"""Describes a run by everything that its result depends on, so that two runs are never mixed.

The description stands in `llava_run.json` beside each checkpoint and beside the finished model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.files.json_files import write_json
from llava.train.setup.arguments import DataArguments, ModelArguments, TrainingOptions

if TYPE_CHECKING:
    from llava.train.setup.training_arguments import TrainingArguments

Identity = dict[str, Any]
"""Name of a setting -> its value. The names are those of the flags where there is one."""

RUN_FILE = "llava_run.json"
FINISHED = "finished_at_step"
"""Key of `llava_run.json` beside a finished model: the number of its last step."""

SAMPLES_PER_STEP = "samples_per_step"
_LENGTH = ("num_train_epochs", "max_steps")
_SCHEDULES_WITHOUT_LENGTH = ("constant", "constant_with_warmup")

_WITHOUT_EFFECT = {
    # where things are, how they are read, and what is reported
    *("image_folder", "lazy_preprocess", "cache_dir", "logging_dir", "save_safetensors", "force_fsdp"),
    *("overwrite_output_dir", "no_cuda", "remove_unused_columns", "max_useless_fraction", "max_bad_samples"),
    *("eval_data_path", "eval_image_folder", "allow_outside_images"),
    "on_bad_sample",  # a run that a bad record stopped may go on with `skip`
    # old names of settings that are listed under their new names
    *("evaluation_strategy", "group_by_length", "warmup_ratio", "fsdp_transformer_layer_cls_to_wrap"),
}
_OF_TRANSFORMERS = (
    *("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "muon", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("seed", "data_seed", "train_sampling_strategy", "bf16", "fp16", "label_smoothing_factor"),
    *("load_best_model_at_end", "dataloader_drop_last", "average_tokens_across_devices", "neftune_noise_alpha"),
)


def run_identity(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments, num_records: int
) -> Identity:
    """Describes a run; flags without an effect on its result (logging, saving, workers, places) are left out."""
    identity: Identity = {"num_records": num_records, "data_sha256": _digest(Path(str(data_args.data_path)))}
    identity[SAMPLES_PER_STEP] = (
        training_args.per_device_train_batch_size
        * training_args.gradient_accumulation_steps
        * max(1, training_args.world_size)
    )
    for group, values in ((ModelArguments, model_args), (DataArguments, data_args), (TrainingOptions, training_args)):
        for option in fields(group):
            if option.name not in _WITHOUT_EFFECT:
                identity[option.name] = getattr(values, option.name)
    identity |= {name: getattr(training_args, name) for name in _OF_TRANSFORMERS if hasattr(training_args, name)}
    return {name: _plain(value) for name, value in identity.items()}


def _plain(value: Any) -> Any:
    """Returns a value as it reads back from JSON."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "value", str(other))))


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def differences(saved: Identity, identity: Identity) -> list[str]:
    """Names the settings that differ, with both values; those that files of earlier releases lack are skipped."""
    ignored = {"data_sha256"} if saved.get("data_path") != identity.get("data_path") else set()
    if saved.get("lr_scheduler_type") in _SCHEDULES_WITHOUT_LENGTH:
        ignored |= set(_LENGTH)  # the steps that were done are the same however many follow
    changed = []
    for name, value in identity.items():
        if name not in saved or name in ignored or saved[name] == value:
            continue
        if name == "data_sha256":
            changed.append(f"the content of {identity.get('data_path')} has changed")
        elif name == SAMPLES_PER_STEP:
            changed.append(f"a step had {saved[name]} samples (batch size x accumulation x processes), now {value}")
        else:
            changed.append(f"{name} was {saved[name]!r}, now {value!r}")
    return changed


def read_identity(folder: Path) -> Identity | None:
    """Reads the description of a folder; None if it has none that can be read."""
    try:
        saved = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return saved if isinstance(saved, dict) else None


def write_identity(folder: Path, identity: Identity, *, finished_at_step: int | None = None) -> None:
    """Writes the description of a run beside a checkpoint, or beside its finished model."""
    finished = {} if finished_at_step is None else {FINISHED: finished_at_step}
    write_json(folder / RUN_FILE, {**identity, **finished})
