"""Builds the projector: the small network from image features to the language model's embeddings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llava.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn


def build_vision_projector(projector_type: str, mm_hidden_size: int, hidden_size: int) -> nn.Module:
    """Builds a projector from its name in `config.json`.

    Args:
        projector_type: `linear` (v0), `mlpNx_gelu` (v1.5: N=2), or `identity`.
        mm_hidden_size: width of the vision tower's features.
        hidden_size: width of the language model.

    Returns:
        A module mapping [..., mm_hidden_size] to [..., hidden_size]. The MLP's tensors are numbered 0, 2, 4 ... as in
        the released checkpoints.

    Raises:
        CheckpointError: an unknown type, or `identity` between different widths.
    """
    from torch import nn

    depth = _num_layers(projector_type, mm_hidden_size, hidden_size)
    if depth == 0:
        return nn.Identity()
    if projector_type == "linear":
        return nn.Linear(mm_hidden_size, hidden_size)
    layers: list[nn.Module] = [nn.Linear(mm_hidden_size, hidden_size)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(hidden_size, hidden_size)]
    return nn.Sequential(*layers)


def projector_shapes(projector_type: str, mm_hidden_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the tensors that `build_vision_projector` makes, without PyTorch.

    Raises:
        CheckpointError: as `build_vision_projector`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    width = mm_hidden_size
    for layer in range(_num_layers(projector_type, mm_hidden_size, hidden_size)):
        prefix = "" if projector_type == "linear" else f"{2 * layer}."
        shapes[f"{prefix}weight"], shapes[f"{prefix}bias"] = (hidden_size, width), (hidden_size,)
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
    match = re.fullmatch(r"mlp(\d+)x_gelu", projector_type)
    if match is None or int(match.group(1)) < 1:
        raise CheckpointError(f"unknown mm_projector_type {projector_type!r}: use linear, mlpNx_gelu or identity.")
    return int(match.group(1))
