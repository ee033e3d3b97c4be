"""Describes a run by everything that its result depends on, so that two runs are never mixed.

The description stands in `llava_run.json` beside each checkpoint and beside the finished model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.metadata import version
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

RESULT_FILES = "result_files"
"""Key of `llava_run.json` beside a finished model: the names of its files."""

SAMPLES_PER_STEP = "samples_per_step"
LENGTH = ("num_train_epochs", "max_steps")
"""The settings that decide how long a run is."""
_PROCESSES = "num_processes"
_VERSIONS = "versions"
_SURROUNDINGS = (_PROCESSES, _VERSIONS)
"""What a run may change while it lasts."""
_INPUTS = ("data_path", "model_name_or_path", "vision_tower", "pretrain_mm_mlp_adapter", "lora_weight_path")
"""Files and folders that are compared by content, wherever they are."""
_CONTENT = "content_of_"
_OF_MODELS = (".safetensors", ".bin", ".json", ".model")
_MIB = 1 << 20

_WITHOUT_EFFECT = {
    # where things are, how they are read, and what is reported
    *("image_folder", "lazy_preprocess", "cache_dir", "logging_dir", "save_safetensors", "force_fsdp"),
    *("overwrite_output_dir", "no_cuda", "remove_unused_columns", "max_useless_fraction", "max_bad_samples"),
    *("eval_data_path", "eval_image_folder", "allow_outside_images"),  # see _OF_THE_BEST
    "on_bad_sample",  # a run that a bad record stopped may go on with `skip`
    # old names of settings that are listed under their new names
    *("evaluation_strategy", "group_by_length", "warmup_ratio", "fsdp_transformer_layer_cls_to_wrap"),
}
_OF_TRANSFORMERS = (
    *("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "muon", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("seed", "data_seed", "train_sampling_strategy", "bf16", "fp16", "label_smoothing_factor"),
    *("load_best_model_at_end", "dataloader_drop_last", "average_tokens_across_devices", "neftune_noise_alpha"),
    *("optim_target_modules", "use_liger_kernel"),
)
_OF_THE_BEST = ("eval_data_path", "eval_strategy", "eval_steps", "eval_delay", "metric_for_best_model")
"""What decides which checkpoint is the best, if that is the result."""


def run_identity(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments, num_records: int
) -> Identity:
    """Describes a run; flags without an effect on its result (logging, saving, workers, places) are left out."""
    identity: Identity = {"num_records": num_records}
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
    inputs = list(_INPUTS)
    if training_args.load_best_model_at_end:
        identity |= {name: getattr(training_args, name, getattr(data_args, name, None)) for name in _OF_THE_BEST}
        inputs.append("eval_data_path")
    if training_args.zero is not None:
        chosen = {name: training_args.zero.settings.get(name) for name in ("optimizer", "scheduler")}
        identity |= {f"deepspeed_{name}": value for name, value in chosen.items() if value is not None}
    for name in inputs:
        if identity[name] and Path(str(identity[name])).exists():
            identity[_CONTENT + name] = _digest(Path(str(identity[name])))
    identity[_PROCESSES] = max(1, training_args.world_size)
    identity[_VERSIONS] = {name: version(name) for name in ("torch", "transformers")}
    return {name: _plain(value) for name, value in identity.items()}


def _plain(value: Any) -> Any:
    """Returns a value as it reads back from JSON."""
    return json.loads(json.dumps(value, default=lambda other: getattr(other, "value", str(other))))


def _digest(path: Path) -> str:
    """Returns the SHA-256 of a file, or of samples of a model's folder, which can hold 100 GB."""
    digest = hashlib.sha256()
    for block in _blocks(path) if path.is_file() else _samples(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_MIB):
            yield block


def _samples(folder: Path) -> Iterator[bytes]:
    """Yields of each file that belongs to a model its name, size, beginning, middle and end.

    Training changes all weights of a tensor, so a model that was trained again differs in these.
    """
    for file in sorted(path for path in folder.iterdir() if path.suffix in _OF_MODELS and path.is_file()):
        size = file.stat().st_size
        yield f"{file.name} {size}".encode()
        with file.open("rb") as stream:
            for position in (0, size // 2, size - _MIB) if size > _MIB else (0,):
                stream.seek(position)
                yield stream.read(_MIB)


def differences(saved: Identity, identity: Identity) -> list[str]:
    """Names the settings that differ, with both values; those that files of earlier releases lack are skipped."""
    changed = []
    for name, value in identity.items():
        if name not in saved or name in _SURROUNDINGS or saved[name] == value:
            continue
        if name in LENGTH and _may_last_longer(saved, identity):
            continue  # the steps that were done are the same however many follow
        if name.startswith(_CONTENT):
            path = identity[name.removeprefix(_CONTENT)]
            if saved.get(name.removeprefix(_CONTENT)) == path:
                changed.append(f"the content of {path} has changed")
        elif name == SAMPLES_PER_STEP:
            changed.append(f"a step had {saved[name]} samples (batch size x accumulation x processes), now {value}")
        elif _CONTENT + name not in identity or saved.get(_CONTENT + name) != identity[_CONTENT + name]:
            changed.append(f"{name} was {saved[name]!r}, now {value!r}")
    return changed


def _may_last_longer(saved: Identity, identity: Identity) -> bool:
    """Tells whether the learning rate does not depend on the length of a run, and the length has only grown."""
    fraction = 0 < float(identity.get("warmup_steps") or 0) < 1
    constant = ("constant",) if fraction else ("constant", "constant_with_warmup")
    if saved.get("lr_scheduler_type") not in constant:
        return False
    steps = [int(of.get("max_steps") or -1) for of in (saved, identity)]
    if max(steps) > 0:
        return min(steps) < 0 or steps[0] <= steps[1]
    return float(saved.get("num_train_epochs", 0)) <= float(identity.get("num_train_epochs", 0))


def surroundings(saved: Identity, identity: Identity) -> list[str]:
    """Describes what differs between two parts of a run without making it another one, one line each."""
    lines = []
    before, now = saved.get(_PROCESSES), identity.get(_PROCESSES)
    if before is not None and before != now:
        lines.append(
            f"the number of processes was {before}, now {now}: each step has the same samples, but rounding and "
            "dropout differ from a run that was not interrupted"
        )
    versions = saved.get(_VERSIONS) or {}
    for name, installed in (identity.get(_VERSIONS) or {}).items():
        if versions.get(name, installed) != installed:
            lines.append(f"{name} was {versions[name]}, now {installed}: rounding may differ")
    return lines


def read_identity(folder: Path) -> Identity | None:
    """Reads the description of a folder; None if it has none that can be read."""
    try:
        saved = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return saved if isinstance(saved, dict) else None


def write_identity(
    folder: Path, identity: Identity, *, finished_at_step: int | None = None, result_files: Sequence[str] = ()
) -> None:
    """Writes the description of a run beside a checkpoint, or beside its finished model."""
    finished = {} if finished_at_step is None else {FINISHED: finished_at_step, RESULT_FILES: list(result_files)}
    write_json(folder / RUN_FILE, {**identity, **finished})
