"""Merges a LoRA adapter into its base, block by block: W + scale * B A (Hu et al., 2021), as PEFT writes adapters.

A LLaVA LoRA run leaves the adapter (`adapter_config.json`, `adapter_model.*`) and, in `non_lora_trainables.bin`, the
tensors that were trained whole: the projector, and with start and end tokens the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, ShapeMismatch
from llava.model.weights.folder import Source
from llava.model.weights.reader import Checkpoint, open_checkpoint, read_json
from llava.model.weights.writer import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WHOLE_FILE = "non_lora_trainables.bin"
_PREFIX = re.compile(r"^(?:base_model\.model\.)+")


@dataclass(frozen=True)
class Adapter:
    """What one LoRA folder changes in its base, by the names of the base's tensors."""

    pairs: dict[str, tuple[Tensor, Tensor, float]]
    """Name of a weight -> A [r, in], B [out, r], scale."""
    whole: dict[str, tuple[Checkpoint, str]]
    """Name of a tensor -> where the one that replaces or joins the base's is, and its name there."""


def read_adapter(folder: Path) -> Adapter:
    """Reads a LoRA folder.

    Raises:
        CheckpointError: no adapter, or a kind of adapter that is not plain LoRA.
    """
    settings = read_json(folder / "adapter_config.json")
    _check_plain(settings, folder)
    weights = open_checkpoint(folder, names=ADAPTER_FILES)
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, tuple[Checkpoint, str]] = {}
    for name in weights:
        match = re.fullmatch(r"(.+)\.lora_([AB])\.(?:default\.)?weight", _PREFIX.sub("", name))
        if match:
            halves.setdefault(f"{match[1]}.weight", {})[match[2]] = weights.tensor(name)
        elif "lora_" in name:
            raise CheckpointError(
                f"{folder}: {name} is a kind of LoRA tensor that cannot be merged here. Merge with PEFT."
            )
        else:
            whole[_PREFIX.sub("", name)] = (weights, name)
    if (folder / WHOLE_FILE).is_file():
        trained = Checkpoint([folder / WHOLE_FILE])
        whole.update({_own_name(name): (trained, name) for name in trained})
    pairs = {}
    for name, half in halves.items():
        if set(half) != {"A", "B"}:
            raise CheckpointError(f"{folder}: the adapter has only one half of {name}. The file is incomplete.")
        pairs[name] = (half["A"], half["B"], _scale(settings, name.removesuffix(".weight"), half["A"].shape[0]))
    if not pairs:
        raise CheckpointError(f"{folder}: the adapter has no LoRA tensors. Is the download complete?")
    return Adapter(pairs, whole)


def _check_plain(settings: dict[str, Any], folder: Path) -> None:
    if settings.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"{folder}: is an adapter of type {settings['peft_type']}; LoRA can be merged.")
    for name in ("use_dora", "fan_in_fan_out", "lora_bias"):
        if settings.get(name):
            raise CheckpointError(f"{folder / 'adapter_config.json'}: {name} is set; merge such an adapter with PEFT.")
    if settings.get("bias", "none") != "none":
        raise CheckpointError(
            f"{folder / 'adapter_config.json'}: bias is {settings['bias']!r}; LLaMA has no biases. Merge with PEFT."
        )


def _own_name(name: str) -> str:
    """The original wrote `base_model.model.model.mm_projector...`; some of its releases one `model.` more or less."""
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


def check_fit(adapter: Adapter, base: Source, folder: Path) -> None:
    """Each changed tensor must be in the base and have the shape that the adapter was trained with.

    Raises:
        CheckpointError: a tensor that the base does not have.
        ShapeMismatch: another shape.
    """
    for name, (first, second, _) in adapter.pairs.items():
        if name not in base.weights:
            raise CheckpointError(
                f"{folder}: the adapter changes {name}, which {base.folder} does not have. Wrong base?"
            )
        if base.weights.shape(name) != (second.shape[0], first.shape[1]):
            raise ShapeMismatch(name, folder, (second.shape[0], first.shape[1]), base.weights.shape(name))
    for name, (weights, theirs) in adapter.whole.items():
        if name in base.weights and weights.shape(theirs)[1:] != base.weights.shape(name)[1:]:
            raise ShapeMismatch(name, folder, weights.shape(theirs), base.weights.shape(name))


def merged_specs(adapter: Adapter, base: Source, dtype: torch.dtype) -> list[TensorSpec]:
    """Tensors of the merged model: the base's in their order, then what the adapter adds."""
    names = [*base.names, *(name for name in adapter.whole if name not in base.weights)]
    return [TensorSpec(name, _shape(adapter, base, name), dtype) for name in names]


def _shape(adapter: Adapter, base: Source, name: str) -> tuple[int, ...]:
    if name in adapter.whole:
        weights, theirs = adapter.whole[name]
        return weights.shape(theirs)
    return base.weights.shape(name)


def merged(adapter: Adapter, base: Source, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
    """Blocks of one merged tensor; sums in float32, rounded once."""
    weights, theirs = adapter.whole.get(name, (base.weights, name))
    pair = adapter.pairs.get(name)
    for first, last in weights.row_ranges(theirs):
        block = weights.rows(theirs, first, last)
        if pair is not None:
            small, tall, scale = pair
            block = block.float() + scale * (tall[first:last].float() @ small.float())
        yield block.to(dtype)
