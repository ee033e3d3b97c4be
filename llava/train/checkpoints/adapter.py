"""Stage 1's result on disk: `mm_projector.bin`, in the form that every release of the original reads.

A flat table of tensors under their full names: `model.mm_projector.weight` and `.bias` (or `.0.weight`, ... for deeper
projectors), and, where start/end tokens were trained, `model.embed_tokens.weight` whole.
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
    """The tensors of the adapter, on the CPU, in the order in which old readers need them: the embedding first.

    Old readers keep only the last part of each name: `embed_tokens.weight` must come before the projector's `weight`.
    """
    tensors: dict[str, Tensor] = {}
    if rows is not None:
        tensors[EMBEDDING] = rows.merged(model.get_input_embeddings()).cpu()
    for name, tensor in model.state_dict().items():
        if name.startswith((PROJECTOR, "model.image_newline")):
            tensors[name] = tensor.detach().cpu().clone()
    return tensors


def save_adapter(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes the table in one step: readers see the old file or the whole new one. Makes the folder."""
    with whole_file(file) as temporary:
        torch.save(tensors, temporary)


def load_adapter(model: Any, rows: TokenRows | None, file: Path) -> None:
    """Puts a saved adapter back into a model of the same shape.

    Raises:
        CheckpointError: the file is unreadable, or its names or shapes are not this model's.
    """
    saved = open_pickle(file)
    expected = adapter_tensors(model, rows)
    if set(saved) != set(expected):
        difference = sorted(set(saved) ^ set(expected))
        raise CheckpointError(f"{file}: holds other tensors than this run trains: {', '.join(difference)}.")
    for name, tensor in saved.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{file}: {name} has shape {list(tensor.shape)}, this run needs {list(expected[name].shape)}."
            )
    if rows is not None:
        rows.load(saved[EMBEDDING])
    model.load_state_dict({name: tensor for name, tensor in saved.items() if name != EMBEDDING}, strict=False)
