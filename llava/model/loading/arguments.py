"""Describes a model on a command line: the flags that say which one and how it is loaded, and what they mean.

Every command that loads a model takes its flags from here. PyTorch is imported only by `ModelSettings.load`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.model.loading.device import DTYPES, placement

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava.model.language_model.causal_lm import LlavaCausalLM


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model a command loads, and how."""

    model_path: str | None = None
    """Model folder, hub id, or the name of an embedded model; None is the embedded model `tiny`."""
    model_base: str | None = None
    """Folder or hub id of the language model, for folders that hold only a projector or a LoRA adapter."""
    vision_tower: str | None = None
    """Folder or hub id of the vision tower; None takes the one that the model names."""
    mm_projector: str | None = None
    """Projector file that turns a plain language model into a LLaVA; None takes the model's own projector."""
    device: str | None = None
    """`cuda`, `cuda:N`, `mps` or `cpu`; None takes the best device of this machine."""
    dtype: str | None = None
    """`float32`, `float16` or `bfloat16`; None chooses by device."""
    num_gpus: int | None = None
    """Number of GPUs to split the model across; None takes all."""
    load_8bit: bool = False
    """Whether the language model is quantised to 8 bits."""
    load_4bit: bool = False
    """Whether the language model is quantised to 4 bits."""
    use_flash_attn: bool = False
    """Whether FlashAttention 2 is used."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ModelSettings:
        """Builds the settings from what `add_model_path` and `add_arguments` parsed."""
        parsed = vars(args)
        return cls(**{field.name: parsed[field.name] for field in fields(cls)})

    def as_flags(self) -> list[list[str]]:
        """Returns the flags that differ from the defaults, each as the words to type, except `--model-path`."""
        flags = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "model_path" or value == field.default:
                continue
            name = f"--{field.name.replace('_', '-')}"
            flags.append([name] if value is True else [name, str(value)])
        return flags

    def load(
        self, folder: Path, *, device: str | None = None
    ) -> tuple[PreTrainedTokenizerFast, LlavaCausalLM, Any, int]:
        """Loads the model, which takes minutes if it is large.

        Args:
            folder: what `find_model` returned.
            device: a device to use instead of `self.device`.

        Returns:
            What `load_pretrained_model` returns.

        Raises:
            LlavaError: the folder, the device or the settings do not allow it.
        """
        from llava.model.builder import load_pretrained_model

        return load_pretrained_model(
            folder,
            self.model_base,
            load_8bit=self.load_8bit,
            load_4bit=self.load_4bit,
            use_flash_attn=self.use_flash_attn,
            dtype=self.dtype,
            vision_tower=self.vision_tower,
            mm_projector=self.mm_projector,
            **placement(device or self.device, self.num_gpus),
        )


def add_model_path(parser: argparse._ActionsContainer, *spellings: str, more: str = "") -> None:
    """Adds the flag that says which model to load.

    Args:
        spellings: names of the flag, the one to show first.
        more: a further sentence of its help text.
    """
    parser.add_argument(
        *spellings,
        dest="model_path",
        metavar="MODEL",
        help=f"Model folder, hub id, or embedded model (default: tiny). {more}".rstrip(),
    )


def add_arguments(
    parser: argparse._ActionsContainer,
    *,
    projector: bool = False,
    split: bool = False,
    split_default: int | None = None,
    flash_attention: bool = False,
) -> None:
    """Adds the flags that say how a model is loaded.

    Args:
        projector: whether to offer `--mm-projector`.
        split: whether to offer `--num-gpus`.
        split_default: the default of `--num-gpus`; None is all GPUs.
        flash_attention: whether to offer `--use-flash-attn`.
    """
    # A flag that a command does not offer still has its default in the namespace.
    parser.set_defaults(mm_projector=None, num_gpus=split_default, use_flash_attn=False)
    parser.add_argument(
        "--model-base",
        metavar="MODEL",
        help="Language model, if the model folder holds only a projector or a LoRA adapter.",
    )
    parser.add_argument("--vision-tower", metavar="DIR", help="Vision tower (default: the one that the model names).")
    if projector:
        parser.add_argument(
            "--mm-projector",
            metavar="FILE",
            help="Projector file that turns a plain LLaMA into a LLaVA (requires --vision-tower).",
        )
    parser.add_argument(
        "--device", metavar="DEVICE", help="Device to run on: cuda, cuda:N, mps or cpu (default: the best available)."
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="Number format of the weights (default: chosen by device).",
    )
    if split:
        _add_num_gpus(parser, split_default)
    parser.add_argument(
        "--load-8bit", action="store_true", help="Quantise to 8 bits (a CPU, or CUDA with the extra `quant`)."
    )
    parser.add_argument("--load-4bit", action="store_true", help="Quantise to 4 bits (CUDA with the extra `quant`).")
    if flash_attention:
        parser.add_argument(
            "--use-flash-attn", action="store_true", help="Use FlashAttention 2 (CUDA with the extra `flash-attn`)."
        )


def _add_num_gpus(parser: argparse._ActionsContainer, default: int | None) -> None:
    parser.add_argument(
        "--num-gpus",
        type=_num_gpus,
        metavar="N",
        help=f"Number of GPUs to split the model across; auto takes all (default: {default or 'all'}).",
    )


def find_model(model_path: str | None) -> tuple[Path, str, str | None]:
    """Finds a model's folder, its name, and for an embedded model a line about it.

    A wrong path is reported here, before PyTorch is imported.

    Raises:
        LlavaError: there is no such model.
    """
    from llava.mm_utils import get_model_name_from_path
    from llava.model.loading.model_folder import is_bare_adapter
    from llava.model.weights.reader import read_model_json, resolve_folder
    from llava.pocket import resolve

    path, notice = resolve(model_path)
    folder = resolve_folder(path)
    if not is_bare_adapter(folder):
        read_model_json(folder / "config.json")
    named_after = path if Path(path).expanduser() != folder else str(folder.absolute())
    return folder, get_model_name_from_path(named_after), notice


def announce(name: str, notice: str | None) -> None:
    """Tells the user on standard error what is being loaded: `notice`, or on a terminal at least the name."""
    if notice is not None:
        print(notice, file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(f"Loading {name} ...", file=sys.stderr, flush=True)


def _num_gpus(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
