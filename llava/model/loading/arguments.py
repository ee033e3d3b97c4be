"""A model on a command line: the flags that say how it is loaded, the folder that is meant, and the loading itself.

Every command that loads a model asks here. PyTorch is imported by `load` alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """How a model is loaded; which one, each command asks in its own words."""
    parser.add_argument(
        "--model-base", metavar="MODEL", help="the language model, where --model-path holds a projector or LoRA only"
    )
    parser.add_argument("--vision-tower", metavar="FOLDER", help="the vision tower, in place of what the model says")
    parser.add_argument("--device", help="cuda, cuda:N, mps or cpu (default: the best there is)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: chosen by device")
    parser.add_argument("--load-8bit", action="store_true", help="quantise to 8 bits (CPU, or CUDA with extra `quant`)")
    parser.add_argument("--load-4bit", action="store_true", help="quantise to 4 bits (CUDA, extra `quant`)")


def find_model(model_path: str | None) -> tuple[Path, str, str | None]:
    """A model's folder, its name, and a line about it if it is an embedded one.

    What is wrong with the path is said here, not after PyTorch's import.

    Raises:
        LlavaError: there is no such model.
    """
    from llava.mm_utils import get_model_name_from_path
    from llava.model.weights.reader import read_json, resolve_folder
    from llava.pocket import resolve

    path, notice = resolve(model_path)
    folder = resolve_folder(path)
    read_json(folder / "config.json")
    named_after = path if Path(path).expanduser() != folder else str(folder.absolute())
    return folder, get_model_name_from_path(named_after), notice


def load(
    args: argparse.Namespace, folder: Path, *, device: str | None = None
) -> tuple[PreTrainedTokenizerFast, LlavaLlamaForCausalLM, Any, int]:
    """What `load_pretrained_model` returns, loaded as the flags say; takes minutes for a large model.

    Args:
        args: what `add_arguments` read, and `mm_projector`, `num_gpus` and `use_flash_attn` where a command has them.
        folder: of `find_model`.
        device: in place of --device.

    Raises:
        LlavaError: the folder, the device or the flags do not allow it.
    """
    from llava.model.builder import load_pretrained_model
    from llava.model.loading.device import placement

    return load_pretrained_model(
        folder,
        args.model_base,
        load_8bit=args.load_8bit,
        load_4bit=args.load_4bit,
        use_flash_attn=getattr(args, "use_flash_attn", False),
        dtype=args.dtype,
        vision_tower=args.vision_tower,
        mm_projector=getattr(args, "mm_projector", None),
        **placement(device or args.device, getattr(args, "num_gpus", None)),
    )
