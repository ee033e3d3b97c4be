"""Refuses flags that contradict each other, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llava.errors import InvalidRequest

if TYPE_CHECKING:
    from llava.train.setup.arguments import ModelArguments
    from llava.train.setup.training_arguments import TrainingArguments

SAMPLING = ("random", "sequential")
"""Values of `--train_sampling_strategy`."""


def check_flags(model_args: ModelArguments, training_args: TrainingArguments) -> None:
    """Refuses flags that contradict each other, and what this machine cannot do.

    Raises:
        InvalidRequest: names the flags.
    """
    base, output_dir = Path(str(model_args.model_name_or_path)), Path(str(training_args.output_dir))
    if base.exists() and base.resolve() == output_dir.resolve():
        raise InvalidRequest(f"--output_dir {output_dir}: is the folder of the model. Choose another one.")
    if training_args.train_sampling_strategy not in SAMPLING:
        raise InvalidRequest(
            f"--train_sampling_strategy {training_args.train_sampling_strategy}: is not supported. Use random or "
            "sequential, or --group_by_modality_length True."
        )
    tower = model_args.unfreeze_mm_vision_tower
    if training_args.mm_vision_tower_lr is not None and not tower:
        raise InvalidRequest(
            "--mm_vision_tower_lr: the vision tower is frozen. Add --unfreeze_mm_vision_tower True, or remove the flag."
        )
    if tower and model_args.tune_mm_mlp_adapter:
        raise InvalidRequest(
            "--unfreeze_mm_vision_tower trains the vision tower, and --tune_mm_mlp_adapter the projector alone. "
            "Remove one of them."
        )
    if training_args.lora is None:
        return
    if model_args.tune_mm_mlp_adapter:
        raise InvalidRequest(
            "--lora_enable adapts the language model, and --tune_mm_mlp_adapter leaves it as it is. Remove one of them."
        )
    if model_args.freeze_backbone:
        raise InvalidRequest(
            "--lora_enable freezes the language model but for its adapter, so --freeze_backbone does not apply. "
            "Remove --freeze_backbone."
        )
    if training_args.muon:
        raise InvalidRequest("--optim muon is meant for whole matrices. Use another optimizer with --lora_enable.")
    if training_args.quantized is not None:
        training_args.quantized.check_machine(training_args.device, sharded=training_args.sharding is not None)
