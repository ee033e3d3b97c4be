"""Builds the projector: the small network from image features to the language model's embeddings."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from llava.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

_NORM: Final = "norm_"
"""What the name of a projector with a layer norm before its first layer begins with."""


def build_vision_projector(
    projector_type: str, mm_hidden_size: int, hidden_size: int, *, bias: bool = True
) -> nn.Module:
    """Builds a projector from its name in `config.json`.

    Args:
        projector_type: `linear` (v0), `mlpNx_gelu` (v1.5: N=2), `norm_mlpNx_gelu` (ViP-LLaVA: the same behind a layer
            norm), or `identity`.
        mm_hidden_size: width of the vision tower's features.
        hidden_size: width of the language model.
        bias: whether the linear layers have one.

    Returns:
        A module mapping [..., mm_hidden_size] to [..., hidden_size]. The MLP's tensors are numbered 0, 2, 4 ... as in
        the released checkpoints; a layer norm is called `norm`.

    Raises:
        CheckpointError: an unknown type, or `identity` between different widths.
    """
    from torch import nn

    depth = _num_layers(projector_type, mm_hidden_size, hidden_size)
    if depth == 0:
        return nn.Identity()
    if projector_type == "linear":
        return nn.Linear(mm_hidden_size, hidden_size, bias=bias)
    layers: dict[str, nn.Module] = {}
    if projector_type.startswith(_NORM):
        layers["norm"] = nn.LayerNorm(mm_hidden_size)
    layers["0"] = nn.Linear(mm_hidden_size, hidden_size, bias=bias)
    for number in range(1, depth):
        layers[str(2 * number - 1)] = nn.GELU()
        layers[str(2 * number)] = nn.Linear(hidden_size, hidden_size, bias=bias)
    return nn.Sequential(OrderedDict(layers))


def projector_shapes(
    projector_type: str, mm_hidden_size: int, hidden_size: int, *, bias: bool = True
) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the tensors that `build_vision_projector` makes, without PyTorch.

    Raises:
        CheckpointError: as `build_vision_projector`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if projector_type.startswith(_NORM):
        shapes["norm.weight"] = shapes["norm.bias"] = (mm_hidden_size,)
    width = mm_hidden_size
    for layer in range(_num_layers(projector_type, mm_hidden_size, hidden_size)):
        prefix = "" if projector_type == "linear" else f"{2 * layer}."
        shapes[f"{prefix}weight"] = (hidden_size, width)
        if bias:
            shapes[f"{prefix}bias"] = (hidden_size,)
        width = hidden_size
    return shapes


def _num_layers(projector_type: str, mm_hidden_size: int, hidden_size: int) -> int:
    if projector_type == "linear":
        return 1
    if projector_type == "identity":
        if mm_hidden_size != hidden_size:
            raise CheckpointError(
                f"mm_projector_type is identity, but image features are {mm_hidden_size} wide and the language "
                f"model {hidden_size}."
            )
        return 0
    match = re.fullmatch(rf"(?:{_NORM})?mlp(\d+)x_gelu", projector_type)
    if match is None or int(match.group(1)) < 1:
        raise CheckpointError(
            f"unknown mm_projector_type {projector_type!r}: use linear, mlpNx_gelu, norm_mlpNx_gelu or identity."
        )
    return int(match.group(1))
