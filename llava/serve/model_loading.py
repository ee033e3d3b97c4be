"""Loading a model for an engine: the flags of every command that does it, and what they do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llava.serve import flags

if TYPE_CHECKING:
    from llava.serve.engine_backend import LoadedModel

_SETTINGS: Final = ("model_base", "vision_tower", "device", "dtype", "num_gpus")
_SWITCHES: Final = ("load_8bit", "load_4bit", "use_flash_attn")


def add_loading_arguments(parser: argparse._ActionsContainer) -> None:
    """How a model is loaded; which one, each command asks in its own words."""
    parser.add_argument(
        "--model-base", metavar="MODEL", help="the language model, where --model-path holds a projector or LoRA only"
    )
    parser.add_argument("--vision-tower", metavar="FOLDER", help="the vision tower, in place of what the model says")
    parser.add_argument("--device", help="cuda, cuda:N, mps or cpu (default: the best there is)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: chosen by device")
    parser.add_argument(
        "--num-gpus",
        type=_gpus,
        metavar="N",
        help="GPUs to spread the model over, or `auto` (default: all that are visible)",
    )
    parser.add_argument("--load-8bit", action="store_true", help="quantise to 8 bits (CPU, or CUDA with extra `quant`)")
    parser.add_argument("--load-4bit", action="store_true", help="quantise to 4 bits (CUDA, extra `quant`)")
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


def find_model(model_path: str | None) -> tuple[Path, str, str | None]:
    """A model's folder, the name that it is served under, and a line about it if it is an embedded one.

    What is wrong with the path is said here, not after PyTorch's import.

    Raises:
        LlavaError: there is no such model.
    """
    from llava.mm_utils import get_model_name_from_path
    from llava.model.checkpoint import read_json, resolve_folder
    from llava.pocket import resolve

    path, notice = resolve(model_path)
    folder = resolve_folder(path)
    read_json(folder / "config.json")
    named_after = path if Path(path).expanduser() != folder else str(folder.absolute())
    return folder, get_model_name_from_path(named_after), notice


def load_model(args: argparse.Namespace, folder: Path) -> LoadedModel:
    """Model and engine; takes minutes for a large model.

    Raises:
        LlavaError: the folder, the device or the flags do not allow it.
    """
    from llava.engine import Engine, Request
    from llava.model.builder import load_pretrained_model
    from llava.model.device import placement
    from llava.serve.engine_backend import LoadedModel

    tokenizer, model, image_processor, context_length = load_pretrained_model(
        folder,
        args.model_base,
        load_8bit=args.load_8bit,
        load_4bit=args.load_4bit,
        use_flash_attn=args.use_flash_attn,
        dtype=args.dtype,
        vision_tower=args.vision_tower,
        **placement(args.device, args.num_gpus),
    )
    engine = Engine(model, tokenizer, image_processor, context_length)
    return LoadedModel(engine, model.config, Request)


def _gpus(text: str) -> int | None:
    return None if text == "auto" else flags.positive(text)
