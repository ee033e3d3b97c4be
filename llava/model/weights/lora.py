"""Merges a LoRA adapter into its base, block by block: W + scale * B A (Hu et al., 2021), as PEFT writes adapters.

A LLaVA LoRA run writes the adapter (`adapter_config.json`, `adapter_model.*`) and, in `non_lora_trainables.bin`, the
tensors that were trained whole: the projector, and the embedding if start and end tokens were trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, ShapeMismatch
from llava.model.weights.folder import SourceFolder
from llava.model.weights.reader import Checkpoint, open_checkpoint, read_model_json
from llava.model.weights.writer import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LORA_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WHOLE_FILE = "non_lora_trainables.bin"
_PREFIX = re.compile(r"^(?:base_model\.model\.)+")


@dataclass(frozen=True)
class LoraAdapter:
    """The changes of one LoRA folder to its base, by the names of the base's tensors."""

    pairs: dict[str, tuple[Tensor, Tensor, float]]
    """Name of a weight -> A [r, in], B [out, r] and the scale."""
    whole: dict[str, tuple[Checkpoint, str]]
    """Name of a tensor -> the file with its replacement or addition, and its name there."""


def read_adapter(folder: Path) -> LoraAdapter:
    """Reads a LoRA folder.

    Raises:
        CheckpointError: no adapter, or an adapter that is not plain LoRA.
    """
    settings = read_model_json(folder / "adapter_config.json")
    _check_plain(settings, folder)
    weights = open_checkpoint(folder, names=LORA_FILES)
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, tuple[Checkpoint, str]] = {}
    for name in weights:
        match = re.fullmatch(r"(.+)\.lora_([AB])\.(?:default\.)?weight", _PREFIX.sub("", name))
        if match:
            halves.setdefault(f"{match[1]}.weight", {})[match[2]] = weights.tensor(name)
        elif "lora_" in name:
            raise CheckpointError(
                f"{folder}: {name} is a kind of LoRA tensor that this tool cannot merge. Merge the adapter with PEFT."
            )
        else:
            whole[_PREFIX.sub("", name)] = (weights, name)
    if (folder / WHOLE_FILE).is_file():
        trained = Checkpoint([folder / WHOLE_FILE])
        whole.update({_own_name(name): (trained, name) for name in trained})
    pairs = {}
    for name, half in halves.items():
        if set(half) != {"A", "B"}:
            raise CheckpointError(
                f"{folder}: the adapter has only one of the two matrices of {name}. The file is incomplete."
            )
        pairs[name] = (half["A"], half["B"], _scale(settings, name.removesuffix(".weight"), half["A"].shape[0]))
    if not pairs:
        raise CheckpointError(f"{folder}: the adapter has no LoRA tensors. Is the download complete?")
    return LoraAdapter(pairs, whole)


def _check_plain(settings: dict[str, Any], folder: Path) -> None:
    if settings.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"{folder}: is an adapter of type {settings['peft_type']}; only LoRA can be merged.")
    for name in ("use_dora", "fan_in_fan_out", "lora_bias"):
        if settings.get(name):
            raise CheckpointError(f"{folder / 'adapter_config.json'}: {name} is set. Merge the adapter with PEFT.")
    if settings.get("bias", "none") != "none":
        raise CheckpointError(
            f"{folder / 'adapter_config.json'}: bias is {settings['bias']!r}, but LLaMA has no biases. "
            "Merge the adapter with PEFT."
        )


def _own_name(name: str) -> str:
    """Returns our name of a tensor that the original calls `base_model.model.model.mm_projector...`, with one `model.`
    more or less in some of its releases."""
    name = _PREFIX.sub("", name)
    if name.startswith("model.model."):
        return name.removeprefix("model.")
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    alpha = settings.get("lora_alpha", 8)
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(?:.*\.)?{pattern}", module):
            alpha = value
            break
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)


def check_fit(adapter: LoraAdapter, base: SourceFolder, folder: Path) -> None:
    """Checks that each changed tensor is in the base and has the shape that the adapter was trained with.

    Raises:
        CheckpointError: a tensor that the base does not have.
        ShapeMismatch: a tensor of another shape.
    """
    for name, (first, second, _) in adapter.pairs.items():
        if name not in base.weights:
            raise CheckpointError(
                f"{folder}: the adapter changes {name}, which {base.folder} does not have. Is it the right base?"
            )
        if base.weights.shape(name) != (second.shape[0], first.shape[1]):
            raise ShapeMismatch(name, folder, (second.shape[0], first.shape[1]), base.weights.shape(name))
    for name, (weights, theirs) in adapter.whole.items():
        if name in base.weights and weights.shape(theirs)[1:] != base.weights.shape(name)[1:]:
            raise ShapeMismatch(name, folder, weights.shape(theirs), base.weights.shape(name))


def merged_specs(adapter: LoraAdapter, base: SourceFolder, dtype: torch.dtype) -> list[TensorSpec]:
    """Lists the tensors of the merged model: the base's in their order, then those that the adapter adds."""
    names = [*base.names, *(name for name in adapter.whole if name not in base.weights)]
    return [TensorSpec(name, _shape(adapter, base, name), dtype) for name in names]


def _shape(adapter: LoraAdapter, base: SourceFolder, name: str) -> tuple[int, ...]:
    if name in adapter.whole:
        weights, theirs = adapter.whole[name]
        return weights.shape(theirs)
    return base.weights.shape(name)


def merged(adapter: LoraAdapter, base: SourceFolder, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields blocks of one merged tensor; sums are in float32 and rounded once."""
    weights, theirs = adapter.whole.get(name, (base.weights, name))
    pair = adapter.pairs.get(name)
    for first, last in weights.row_ranges(theirs):
        block = weights.rows(theirs, first, last)
        if pair is not None:
            small, tall, scale = pair
            block = block.float() + scale * (tall[first:last].float() @ small.float())
        yield block.to(dtype)
