"""Defines the flags of a training run and their `--help` text, without importing torch or transformers.

As in every release of the original, there are three groups: model, data and training. `training_arguments.py` adds the
training group to transformers' own flags.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from llava.errors import InvalidRequest


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class ModelArguments:
    """Which parts the model consists of and which of them train."""

    model_name_or_path: str | None = _option(
        None, "Folder or hub id of the model to start from: a LLaMA, or an existing LLaVA (required)."
    )
    version: str = _option(
        "v0",
        "Training template: v0, v1, plain, auto for the words of the model's own family, or another template's name "
        "such as llava_llama_2, qwen_1_5 or llama_3 (default: v0).",
    )
    freeze_backbone: bool = _option(
        False,
        "Freeze the language model's layers and embeddings; its output layer and the projector still train "
        "(default: False).",
    )
    tune_mm_mlp_adapter: bool = _option(
        False,
        "Stage 1: train only the projector and, with --mm_use_im_start_end, the embeddings of the two tokens "
        "(default: False).",
    )
    unfreeze_mm_vision_tower: bool = _option(
        False, "Train the vision tower too, and save it with the model (default: False)."
    )
    vision_tower: str | None = _option(None, "Folder or hub id of the vision tower (default: the model's own, if any).")
    mm_vision_select_layer: str | None = _option(
        None,
        "Tower layer to take features from; -1 is the last, -2 the one before. A list such as [-2,-5] joins the "
        "features of several layers. For a tower of stages, the stage (default: the model's own, or -1).",
    )
    mm_vision_select_feature: str | None = _option(
        None,
        "Features to use: patch for the patches, cls_patch for the class token and the patches "
        "(default: the model's own, or patch).",
    )
    mm_projector_type: str | None = _option(
        None,
        "Projector type: linear, identity, or an MLP such as mlp2x_gelu (default: the model's own, or linear).",
    )
    mm_patch_merge_type: str | None = _option(
        None,
        "How image tiles are merged: flat, spatial or spatial_unpad (default: the model's own, or flat).",
    )
    pretrain_mm_mlp_adapter: str | None = _option(
        None, "mm_projector.bin of a stage 1 run to initialise the projector from (default: random weights)."
    )
    mm_use_im_start_end: bool = _option(False, "Put <im_start> and <im_end> around each image (default: False).")
    mm_use_im_patch_token: bool = _option(
        True, "Add <im_patch> to the vocabulary; --version v0 requires it (default: True)."
    )
    legacy_bos: bool = _option(
        False,
        "Start each sample with </s> instead of <s>, to reproduce a mistake of the first release (default: False).",
    )


@dataclass(frozen=True, slots=True)
class DataArguments:
    """Which records and images the model is trained on."""

    data_path: str | None = _option(None, "Training file: a JSON list of records with 'conversations' (required).")
    image_folder: str | None = _option(
        None, "Folder that the image paths are relative to (default: the folder of --data_path)."
    )
    image_aspect_ratio: str | None = _option(
        None, "How images are fitted to the tower: square, pad, keep or anyres (default: the model's own, or square)."
    )
    image_grid_pinpoints: str | None = _option(
        None,
        "Tile grids for anyres: a JSON list of [width, height] in pixels, such as [[336,672],[672,336]] "
        "(default: the model's own).",
    )
    lazy_preprocess: bool = _option(True, "Accepted for old commands. Samples are always made on demand.")
    allow_outside_images: bool = _option(
        False, "Accept image paths that lead out of the image folder (default: False)."
    )
    on_bad_sample: str = _option(
        "stop",
        "What to do with a record whose image cannot be read: stop the run, or skip the record and list it in "
        "OUTPUT_DIR/bad_samples.jsonl (default: stop).",
    )
    max_bad_samples: int | None = _option(
        None, "Stop if more records than this were skipped as bad (default: no limit)."
    )
    eval_data_path: str | None = _option(
        None,
        "Held-out records in the format of --data_path. Their loss is measured every --eval_steps steps, or else after "
        "each epoch (default: none).",
    )
    eval_image_folder: str | None = _option(
        None, "Folder that the held-out records' image paths are relative to (default: --image_folder)."
    )
    max_useless_fraction: float = _option(
        0.1, "Stop if more than this fraction of the samples has no answer left to learn, 0 to 1 (default: 0.1)."
    )


@dataclass
class TrainingOptions:
    """Training flags of the original that transformers never had or no longer has."""

    cache_dir: str | None = _option(None, "Accepted for old commands. Set HF_HOME instead.")
    remove_unused_columns: bool = _option(False, "Accepted for old commands. Must be False.")
    freeze_mm_mlp_adapter: bool = _option(False, "Freeze the projector (default: False).")
    model_max_length: int = _option(
        512, "Longest sequence in tokens, including all image positions; longer samples are cut (default: 512)."
    )
    mm_projector_lr: float | None = _option(None, "Learning rate of the projector (default: --learning_rate).")
    mm_vision_tower_lr: float | None = _option(
        None, "Learning rate of the vision tower, with --unfreeze_mm_vision_tower (default: --learning_rate)."
    )
    lora_enable: bool = _option(
        False, "Train LoRA matrices beside the language model's layers instead of the layers (default: False)."
    )
    lora_r: int = _option(64, "Rank of the LoRA matrices (default: 64).")
    lora_alpha: int = _option(16, "Scale of the LoRA matrices' product, divided by their rank (default: 16).")
    lora_dropout: float = _option(
        0.05, "Fraction of the LoRA matrices' inputs that is dropped, 0 to 1 (default: 0.05)."
    )
    lora_weight_path: str = _option(
        "", "Folder of a LoRA run to train on: its adapter and the tensors beside it (default: a new adapter)."
    )
    lora_bias: str = _option(
        "none", "Biases of the language model that train with LoRA: none, all or lora_only (default: none)."
    )
    use_dora: bool = _option(False, "Train DoRA: with LoRA, the length of each row of a matrix (default: False).")
    use_rslora: bool = _option(
        False, "Divide --lora_alpha by the square root of the rank, for high ranks (default: False)."
    )
    bits: int = _option(
        16, "Bits of the frozen weights under LoRA: 4 or 8 with bitsandbytes on a CUDA GPU, 16 for none (default: 16)."
    )
    double_quant: bool = _option(True, "Quantise the scales of 4-bit weights too (default: True).")
    quant_type: str = _option("nf4", "4-bit number format: nf4 or fp4 (default: nf4).")
    group_by_modality_length: bool = _option(
        False, "Group samples of similar length into batches, with and without images separately (default: False)."
    )
    group_by_length: bool = _option(False, "Same as --group_by_modality_length.")
    evaluation_strategy: str | None = _option(None, "Old name of --eval_strategy.")
    warmup_ratio: float | None = _option(
        None, "Fraction of all steps over which the learning rate rises, 0 to 1. Newer: --warmup_steps below 1."
    )
    fsdp_transformer_layer_cls_to_wrap: str | None = _option(None, "Old name of a key of --fsdp_config.")
    no_cuda: bool = _option(False, "Old name of --use_cpu.")
    overwrite_output_dir: bool = _option(False, "Start over even if --output_dir has checkpoints (default: False).")
    save_safetensors: bool = _option(True, "Accepted for old commands. Models are always saved as safetensors.")
    logging_dir: str | None = _option(None, "Accepted for old commands. Set TENSORBOARD_LOGGING_DIR instead.")
    force_fsdp: bool = _option(False, "Accepted for old commands. Has no effect, as in the original.")


COMMON_TRAINER_FLAGS: dict[str, str] = {
    "output_dir": "Folder for checkpoints and the trained model (required).",
    "num_train_epochs": "Number of passes over the data (default: 3).",
    "max_steps": "Number of optimizer steps; overrides --num_train_epochs (default: -1, no limit).",
    "per_device_train_batch_size": "Number of samples per device and batch (default: 8).",
    "gradient_accumulation_steps": "Number of batches per optimizer step (default: 1).",
    "learning_rate": "Peak learning rate (default: 5e-5).",
    "weight_decay": "Weight decay (default: 0).",
    "lr_scheduler_type": "Learning-rate schedule: linear, cosine, constant, ... (default: linear).",
    "warmup_steps": "Steps over which the learning rate rises; below 1, a fraction of all steps (default: 0).",
    "optim": "Optimizer; muon needs fewer samples to train small models (default: adamw_torch).",
    "max_grad_norm": "Largest gradient norm; larger gradients are scaled down (default: 1).",
    "bf16": "Compute in bfloat16 if the device supports it; weights stay float32 (default: False).",
    "fp16": "Compute in float16 if the device supports it; weights stay float32 (default: False).",
    "tf32": "Use TF32 matrix products on Ampere and newer GPUs (default: PyTorch's setting).",
    "gradient_checkpointing": "Recompute activations in the backward pass to save memory (default: False).",
    "save_strategy": "When to save checkpoints: no, steps or epoch (default: steps).",
    "save_steps": "Steps between checkpoints; below 1, a fraction of all steps (default: 500).",
    "save_total_limit": "Number of checkpoints to keep; older ones are deleted (default: keep all).",
    "resume_from_checkpoint": "Checkpoint folder, or False to start over (default: this run's latest checkpoint).",
    "logging_steps": "Steps between log lines (default: 500).",
    "eval_strategy": "When to measure the loss on --eval_data_path: no, steps or epoch (default: epoch if it is set).",
    "eval_steps": "Steps between measurements; below 1, a fraction of all steps (default: --logging_steps).",
    "per_device_eval_batch_size": "Number of held-out samples per device and batch (default: 8).",
    "load_best_model_at_end": "Save the weights with the lowest loss on --eval_data_path (default: False, the last).",
    "report_to": "Experiment trackers, one or more: wandb, tensorboard, trackio, ... or none (default: none).",
    "run_name": "Name of the run in the experiment trackers (default: the last part of --output_dir).",
    "disable_tqdm": "Print a line for each logged step in a terminal too, in place of a bar (default: False).",
    "seed": "Random seed (default: 42).",
    "dataloader_num_workers": "Number of processes that prepare samples (default: 0, the training process itself).",
    "use_cpu": "Train on the CPU even if an accelerator is available (default: False).",
}
"""The flags of transformers that training commands use most. All others are accepted too."""

_NO_PACKING = "packing samples is not supported. Remove the flag."
_OFF = frozenset({"false", "no", "0"})
_ON = frozenset({"true", "yes", "1"})

REFUSED_FLAGS: dict[str, tuple[str, frozenset[str]]] = {
    **dict.fromkeys(("packing", "pack"), (_NO_PACKING, _OFF)),
    "ignore_data_skip": (
        "a resumed run would train on some samples twice and on others never. Remove the flag.",
        _OFF,
    ),
    "auto_find_batch_size": (
        "another batch size would make another run. Choose one that fits, and --gradient_accumulation_steps.",
        _OFF,
    ),
    "save_only_model": (
        "a run could not be resumed from such checkpoints. Remove the flag; --save_total_limit limits their number.",
        _OFF,
    ),
    "enable_jit_checkpoint": (
        "is not supported. Remove the flag, and lower --save_steps to lose less.",
        _OFF,
    ),
    "push_to_hub": ("nothing is uploaded while training. Upload OUTPUT_DIR when it is finished.", _OFF),
    "dataloader_in_order": ("the order of the samples would depend on chance. Remove the flag.", _ON),
    "mpt_attn_impl": ("MPT models are not supported. Remove the flag, and start from a LLaMA.", frozenset()),
}
"""Flags that are refused: the reason, and the values that are accepted because they ask for nothing."""


def without_refused(argv: Sequence[str]) -> list[str]:
    """Returns `argv` without the refused flags that are switched off.

    Raises:
        InvalidRequest: a refused flag is switched on.
    """
    kept: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in REFUSED_FLAGS:
            kept.append(word)
            continue
        if not given:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        reason, off = REFUSED_FLAGS[name]
        if value.lower() not in off:
            raise InvalidRequest(f"--{name} {value}: {reason}")
    return kept


def help_parser(prog: str | None, description: str | None) -> argparse.ArgumentParser:
    """Builds a parser that only prints help, without loading transformers."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        usage="%(prog)s --model_name_or_path DIR --data_path FILE --output_dir DIR [options]",
        epilog="A BOOL is True or False; the flag alone means True. All other flags of transformers' TrainingArguments "
        "are accepted too; see the Trainer pages of its documentation.",
    )
    for title, options in (("model", ModelArguments), ("data", DataArguments)):
        group = parser.add_argument_group(title)
        for option in fields(options):
            _add_help(group, option.name, _metavar(option), option.metadata["help"])
    group = parser.add_argument_group("training")
    for name, text in COMMON_TRAINER_FLAGS.items():
        _add_help(group, name, _METAVARS.get(name, "VALUE"), text)
    for option in fields(TrainingOptions):
        _add_help(group, option.name, _metavar(option), option.metadata["help"])
    return parser


_METAVARS = {
    **dict.fromkeys(("model_name_or_path", "vision_tower", "image_folder", "output_dir", "cache_dir"), "DIR"),
    **dict.fromkeys(("resume_from_checkpoint", "logging_dir", "lora_weight_path", "eval_image_folder"), "DIR"),
    **dict.fromkeys(("data_path", "eval_data_path", "pretrain_mm_mlp_adapter"), "FILE"),
    **dict.fromkeys(("version", "run_name"), "NAME"),
    **dict.fromkeys(("bf16", "fp16", "tf32", "gradient_checkpointing", "use_cpu"), "BOOL"),
    **dict.fromkeys(("disable_tqdm", "load_best_model_at_end"), "BOOL"),
    **dict.fromkeys(("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"), "N"),
    **dict.fromkeys(("save_total_limit", "seed", "dataloader_num_workers"), "N"),
    "mm_vision_select_layer": "LAYER",
    "per_device_eval_batch_size": "N",
    **dict.fromkeys(("num_train_epochs", "learning_rate", "mm_projector_lr", "weight_decay", "max_grad_norm"), "X"),
    **dict.fromkeys(("warmup_ratio", "warmup_steps", "save_steps", "logging_steps", "mm_vision_tower_lr"), "X"),
    "eval_steps": "X",
    "image_grid_pinpoints": "JSON",
}
"""The kind of value that a flag takes, unless the default shows it."""


def _add_help(group: Any, name: str, metavar: str, text: str) -> None:
    group.add_argument(f"--{name}", metavar=metavar, help=text.replace("%", "%%"))


def _metavar(option: Field[Any]) -> str:
    kinds = {bool: "BOOL", int: "N", float: "X"}
    return _METAVARS.get(option.name) or kinds.get(type(option.default), "VALUE")
