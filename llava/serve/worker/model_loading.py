"""Loads a model to be served or chatted with: the flags of `llava.model.loading.arguments` and a few of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llava.model.loading import arguments
from llava.serve.service import flags

if TYPE_CHECKING:
    from llava.serve.worker.engine_backend import LoadedModel

_SETTINGS: Final = ("model_base", "vision_tower", "device", "dtype", "num_gpus")
_SWITCHES: Final = ("load_8bit", "load_4bit", "use_flash_attn")


def add_loading_arguments(parser: argparse._ActionsContainer) -> None:
    """How a model is loaded; which one, each command asks in its own words."""
    arguments.add_arguments(parser)
    parser.add_argument(
        "--num-gpus",
        type=_gpus,
        metavar="N",
        help="GPUs to spread the model over, or `auto` (default: all that are visible)",
    )
    parser.add_argument("--use-flash-attn", action="store_true", help="FlashAttention 2 (CUDA, extra `flash-attn`)")


def given(args: argparse.Namespace) -> list[str]:
    """Which of these flags were used."""
    settings = (f"--{name.replace('_', '-')}" for name in _SETTINGS if getattr(args, name) is not None)
    return [*settings, *(f"--{name.replace('_', '-')}" for name in _SWITCHES if getattr(args, name))]


def typed(args: argparse.Namespace) -> list[str]:
    """These flags as they would be typed, for a command that another one starts."""
    words: list[str] = []
    for flag in given(args):
        value = getattr(args, flag[2:].replace("-", "_"))
        words += [flag] if value is True else [flag, str(value)]
    return words


def load_model(args: argparse.Namespace, folder: Path) -> LoadedModel:
    """Model and engine; takes minutes for a large model.

    Raises:
        LlavaError: the folder, the device or the flags do not allow it.
    """
    from llava.engine import Engine, Request
    from llava.serve.worker.engine_backend import LoadedModel

    tokenizer, model, image_processor, context_length = arguments.load(args, folder)
    engine = Engine(model, tokenizer, image_processor, context_length)
    return LoadedModel(engine, model.config, Request)


def _gpus(text: str) -> int | None:
    return None if text == "auto" else flags.positive(text)
