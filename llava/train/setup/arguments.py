"""What a training run is told, and the `--help` text; free of torch and transformers.

Three groups of flags, as in every release of the original: model, data, training. The training group continues in
`training_arguments.py`, which adds them to transformers' own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from llava.errors import InvalidRequest


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which parts the model is made of and which of them train."""

    model_name_or_path: str | None = _option(
        None, "folder of the language model to start from: LLaMA weights, or an existing LLaVA (required)"
    )
    version: str = _option(
        "v0",
        "training text: v0, v1, plain, or a template's name (llava_llama_2, v1_mmtag, chatml_direct, ...) (default v0)",
    )
    freeze_backbone: bool = _option(
        False, "keep the language model's layers and embeddings fixed; its output layer and the projector train"
    )
    tune_mm_mlp_adapter: bool = _option(
        False, "stage 1: train the projector only (and the two start/end token rows, with mm_use_im_start_end)"
    )
    vision_tower: str | None = _option(None, "folder or hub id of the vision tower; without it, text only")
    mm_vision_select_layer: int | None = _option(
        None, "tower layer whose features are used: -1 the last, -2 the one before (default: the model's own, else -1)"
    )
    mm_vision_select_feature: str | None = _option(
        None, "patch (without the class token) or cls_patch (default: the model's own, else patch)"
    )
    mm_projector_type: str | None = _option(
        None, "linear, mlp2x_gelu, mlp3x_gelu, ... or identity (default: the model's own, else linear)"
    )
    mm_patch_merge_type: str | None = _option(
        None,
        "how tiles of a large image are joined: flat, spatial, spatial_unpad (default: the model's own, else flat)",
    )
    pretrain_mm_mlp_adapter: str | None = _option(None, "mm_projector.bin of stage 1 to start from")
    mm_use_im_start_end: bool = _option(False, "put <im_start> and <im_end> around each image")
    mm_use_im_patch_token: bool = _option(True, "add <im_patch> to the vocabulary (default true; v0 text needs it)")
    legacy_bos: bool = _option(
        False, "begin every sample with </s>, as the first release did by mistake, in place of the tokenizer's own <s>"
    )


@dataclass
class DataArguments:
    """What is trained on."""

    data_path: str | None = _option(None, "training file: a JSON list of records with 'conversations' (required)")
    image_folder: str | None = _option(
        None, "folder that the records' 'image' paths are relative to (default: the file's own)"
    )
    image_aspect_ratio: str | None = _option(
        None, "square (crop), keep, pad or anyres (default: the model's own, else square)"
    )
    image_grid_pinpoints: str | None = _option(
        None, "anyres: grids of tiles in pixels, a JSON list such as [[336,672],[672,336]]"
    )
    lazy_preprocess: bool = _option(True, "accepted for old commands; samples are always made when they are needed")
    max_useless_fraction: float = _option(
        0.1, "stop when more than this share of samples has no answer left to learn (0 to 1, default 0.1)"
    )


@dataclass
class TrainingOptions:
    """Training flags of the original that transformers does not have, or no longer has."""

    cache_dir: str | None = _option(None, "accepted for old commands; set HF_HOME in its place")
    remove_unused_columns: bool = _option(False, "accepted for old commands; must stay false")
    freeze_mm_mlp_adapter: bool = _option(False, "keep the projector fixed")
    model_max_length: int = _option(512, "longest sequence in tokens, images counted in full (default 512)")
    mm_projector_lr: float | None = _option(None, "learning rate of the projector (default: learning_rate)")
    group_by_modality_length: bool = _option(
        False, "fill batches with samples of like length, images and pure text apart"
    )
    group_by_length: bool = _option(False, "fill batches with samples of like length")
    evaluation_strategy: str | None = _option(None, "older name of eval_strategy")
    warmup_ratio: float | None = _option(None, "share of all steps over which the learning rate rises (0 to 1)")
    fsdp_transformer_layer_cls_to_wrap: str | None = _option(None, "older name of a key of fsdp_config")
    no_cuda: bool = _option(False, "older name of use_cpu")
    overwrite_output_dir: bool = _option(False, "start anew though output_dir holds checkpoints")
    save_safetensors: bool = _option(True, "accepted for old commands; weights are always safetensors")
    logging_dir: str | None = _option(None, "accepted for old commands; set TENSORBOARD_LOGGING_DIR in its place")
    force_fsdp: bool = _option(False, "accepted for old commands; has no effect, as in the original")


COMMON_TRAINER_FLAGS: dict[str, str] = {
    "output_dir": "where checkpoints and the result go (required)",
    "num_train_epochs": "passes over the data (default 3)",
    "max_steps": "optimizer steps, in place of epochs (default -1: use epochs)",
    "per_device_train_batch_size": "samples a device and step (default 8)",
    "gradient_accumulation_steps": "batches added up for one optimizer step (default 1)",
    "learning_rate": "highest learning rate (default 5e-5)",
    "weight_decay": "default 0",
    "lr_scheduler_type": "linear, cosine, constant, ... (default linear)",
    "warmup_steps": "steps over which the learning rate rises; below 1 a share of all steps (default 0)",
    "optim": "optimizer; muon learns small models from fewer samples (default adamw_torch)",
    "max_grad_norm": "gradients are scaled down to this norm (default 1)",
    "bf16": "16-bit arithmetic on devices that have it; weights stay float32",
    "fp16": "as bf16 with float16",
    "tf32": "TF32 matrix products on Ampere and later",
    "gradient_checkpointing": "compute activations twice to save memory",
    "save_strategy": "no, steps or epoch (default steps)",
    "save_steps": "steps between checkpoints; below 1 a share of all steps (default 500)",
    "save_total_limit": "checkpoints kept; older ones are deleted (default: all)",
    "resume_from_checkpoint": "a checkpoint folder, or False to start anew (default: the last checkpoint of this run)",
    "logging_steps": "steps between log lines (default 500)",
    "report_to": "wandb, tensorboard, ... or none (default none)",
    "run_name": "name of the run in the report",
    "seed": "default 42",
    "dataloader_num_workers": "processes that prepare samples (default 0: the training process itself)",
    "use_cpu": "train on the CPU even where there is an accelerator",
}
"""The flags of transformers that training commands use most; all others are accepted too."""

REFUSED_FLAGS: dict[str, tuple[str, frozenset[str]]] = {
    name: (reason, frozenset(off))
    for names, reason, off in (
        (("lora_enable",), "LoRA training is not supported", ("false", "no", "0")),
        (
            ("lora_r", "lora_alpha", "lora_dropout", "lora_bias", "lora_weight_path"),
            "LoRA training is not supported",
            (),
        ),
        (("bits",), "4- and 8-bit training is not supported", ("16",)),
        (("double_quant", "quant_type"), "4- and 8-bit training is not supported", ()),
        (("packing", "pack"), "packing samples is not supported", ("false", "no", "0")),
        (("deepspeed",), "DeepSpeed is not supported", ()),
        (("mpt_attn_impl",), "MPT models are not supported", ()),
    )
    for name in names
}
"""Flags of later releases that would change the run if they were ignored: why refused, and which values mean off."""


def without_refused(argv: Sequence[str]) -> list[str]:
    """Returns `argv` without refused flags that are set to "off".

    Raises:
        InvalidRequest: a refused flag asks for something.
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
            raise InvalidRequest(f"--{name} {value}: {reason}. Remove the flag for full training of the chosen parts.")
    return kept


def help_parser(prog: str | None, description: str | None) -> argparse.ArgumentParser:
    """A parser that is only good for printing help: made without loading transformers."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        usage="%(prog)s --model_name_or_path DIR --data_path FILE --output_dir DIR [options]",
        epilog="Flags that are on or off take True or False, or stand alone for True. "
        "Every further flag of transformers' TrainingArguments is accepted; see the Trainer pages of its manual.",
    )
    for title, options in (("model", ModelArguments), ("data", DataArguments)):
        group = parser.add_argument_group(title)
        for option in fields(options):
            _add_help(group, option.name, _metavar(option), option.metadata["help"])
    group = parser.add_argument_group("training")
    for name, text in COMMON_TRAINER_FLAGS.items():
        _add_help(group, name, "X", text)
    for option in fields(TrainingOptions):
        _add_help(group, option.name, _metavar(option), option.metadata["help"])
    return parser


def _add_help(group: Any, name: str, metavar: str, text: str) -> None:
    group.add_argument(f"--{name}", metavar=metavar, help=text.replace("%", "%%"))


def _metavar(option: Field[Any]) -> str:
    default = None if option.default is MISSING else option.default
    if isinstance(default, bool):
        return "BOOL"
    return {int: "N", float: "X"}.get(type(default), "X")
