"""Builds the projector: the small network from image features to the language model's embeddings."""

from __future__ import annotations

import re

from torch import nn

from llava.errors import CheckpointError


def build_vision_projector(projector_type: str, mm_hidden_size: int, hidden_size: int) -> nn.Module:
    """Builds a projector by its name in `config.json`.

    Args:
        projector_type: `linear` (v0), `mlpNx_gelu` (v1.5: N=2), or `identity`.
        mm_hidden_size: width of the vision tower's features.
        hidden_size: width of the language model.

    Returns:
        A module mapping [..., mm_hidden_size] to [..., hidden_size]; the MLP's tensors are numbered 0, 2, 4 ... as in
        the released checkpoints.

    Raises:
        CheckpointError: an unknown type, or `identity` between different widths.
    """
    if projector_type == "linear":
        return nn.Linear(mm_hidden_size, hidden_size)
    if projector_type == "identity":
        if mm_hidden_size != hidden_size:
            raise CheckpointError(
                f"mm_projector_type is identity, but image features are {mm_hidden_size} wide and the language "
                f"model {hidden_size}."
            )
        return nn.Identity()
    match = re.fullmatch(r"mlp(\d+)x_gelu", projector_type)
    if match is None or int(match.group(1)) < 1:
        raise CheckpointError(f"mm_projector_type {projector_type!r} is not known: use linear, mlpNx_gelu or identity.")
    layers: list[nn.Module] = [nn.Linear(mm_hidden_size, hidden_size)]
    for _ in range(int(match.group(1)) - 1):
        layers += [nn.GELU(), nn.Linear(hidden_size, hidden_size)]
    return nn.Sequential(*layers)
