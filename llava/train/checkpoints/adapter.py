"""Saves and loads `mm_projector.bin`, the result of stage 1, in the format that every original release reads.

The file maps full names to tensors: `model.mm_projector.weight` and `.bias` (`.0.weight`, ... for MLPs) and, if start
and end tokens were trained, the whole `model.embed_tokens.weight`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava.errors import CheckpointError
from llava.files.json_files import whole_file
from llava.model.weights.reader import open_pickle
from llava.train.setup.trainable import PROJECTOR, TokenRows

ADAPTER_FILE = "mm_projector.bin"
EMBEDDING = "model.embed_tokens.weight"
ADAPTER_PARTS = ("mm_projector", "embed_tokens", "image_newline")


def adapter_tensors(model: Any, rows: TokenRows | None) -> dict[str, Tensor]:
    """Returns the adapter's tensors on the CPU, the embedding first.

    The order matters: old readers keep only the last part of a name, so the projector's `weight` must come last.
    """
    tensors: dict[str, Tensor] = {}
    if rows is not None:
        tensors[EMBEDDING] = rows.merged(model.get_input_embeddings()).cpu()
    for name, tensor in model.state_dict().items():
        if name.startswith((PROJECTOR, "model.image_newline")):
            tensors[name] = tensor.detach().cpu().clone()
    return tensors


def save_adapter(tensors: dict[str, Tensor], file: Path) -> None:
    """Replaces the file in one step, so that readers see the old or the new one; creates the folder."""
    with whole_file(file) as temporary:
        torch.save(tensors, temporary)


def load_adapter(model: Any, rows: TokenRows | None, file: Path) -> None:
    """Loads a saved adapter into a model of the same shape.

    Raises:
        CheckpointError: the file is unreadable, or its names or shapes do not fit the model.
    """
    saved = open_pickle(file)
    expected = adapter_tensors(model, rows)
    if set(saved) != set(expected):
        difference = sorted(set(saved) ^ set(expected))
        raise CheckpointError(f"{file}: the tensors do not match those that this run trains: {', '.join(difference)}.")
    for name, tensor in saved.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{file}: {name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}."
            )
    if rows is not None:
        rows.load(saved[EMBEDDING])
    model.load_state_dict({name: tensor for name, tensor in saved.items() if name != EMBEDDING}, strict=False)
