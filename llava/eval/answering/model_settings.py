"""Turns the flags that load a model into settings; the one place of this folder that reads them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.model.loading import arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model a command loads, and how."""

    model_path: str | None = None
    """Model folder, hub id, or the name of an embedded model; None is the embedded model `tiny`."""
    model_base: str | None = None
    """Language model, if the model folder holds only a projector or a LoRA adapter."""
    vision_tower: str | None = None
    """Vision tower; None takes the one that the model names."""
    mm_projector: str | None = None
    """Projector file for a plain language model; None takes the model's own projector."""
    device: str | None = None
    """`cuda`, `cuda:N`, `mps` or `cpu`; None takes the best available device."""
    dtype: str | None = None
    """`float32`, `float16` or `bfloat16`; None chooses by device."""
    num_gpus: int | None = None
    """Number of GPUs to split the model across; None takes all."""
    load_8bit: bool = False
    """Whether the language model is quantised to 8 bits."""
    load_4bit: bool = False
    """Whether the language model is quantised to 4 bits."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ModelSettings:
        """Builds the settings from the parsed flags."""
        return cls(
            args.model_path,
            args.model_base,
            args.vision_tower,
            args.mm_projector,
            args.device,
            args.dtype,
            args.num_gpus,
            args.load_8bit,
            args.load_4bit,
        )

    def load(
        self, folder: Path, *, device: str | None = None
    ) -> tuple[PreTrainedTokenizerFast, LlavaLlamaForCausalLM, Any, int]:
        """Loads the model.

        Args:
            folder: what `find_model` returned.
            device: a device to use instead of `self.device`.

        Returns:
            What `load_pretrained_model` returns.

        Raises:
            LlavaError: the folder, the device or the settings do not allow it.
        """
        values = {name: getattr(self, name) for name in self.__slots__}
        return arguments.load(argparse.Namespace(**values), folder, device=device)
