"""Reads trained projectors (and the rows of image tokens beside them) from the files of any release.

Releases name the same tensor differently: `model.mm_projector.weight` (v0), `model.mm_projector.0.weight` (v1.5),
`base_model.model.model.mm_projector.0.weight` (LoRA), `transformer.mm_projector.weight`, or no prefix at all. What
follows `mm_projector.` decides.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from llava.errors import CheckpointError, ShapeMismatch
from llava.model.weights.reader import Checkpoint, open_checkpoint

log = logging.getLogger(__name__)

ADAPTER_FILES = ("mm_projector.bin", "mm_projector.safetensors", "non_lora_trainables.bin")


def open_adapter(path: str | Path) -> Checkpoint:
    """Opens a projector file, or a folder that holds one or a whole model.

    Raises:
        CheckpointError: no such file, or one that cannot be read.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return open_checkpoint(path, names=ADAPTER_FILES)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such projector file. Make one with `llava weights extract-projector`.")
    return Checkpoint([path])


def projector_tensors(adapter: Checkpoint) -> dict[str, Tensor]:
    """Tensors of the projector by the part of their names after `mm_projector.`."""
    marker = "mm_projector."
    return {name.split(marker, 1)[1]: adapter.tensor(name) for name in adapter if marker in name}


def load_projector(model: Any, path: str | Path) -> None:
    """Copies a trained projector into `model`, and `image_newline` where both have it.

    Raises:
        CheckpointError: the file has no projector, or one of another kind.
        ShapeMismatch: a tensor of another shape.
    """
    adapter = open_adapter(path)
    tensors = projector_tensors(adapter)
    projector = model.get_model().mm_projector
    expected = projector.state_dict()
    if not tensors and expected:
        raise CheckpointError(
            f"{path}: has no projector (no tensor named mm_projector.*). Found: {', '.join(adapter)}."
        )
    if set(tensors) != set(expected):
        raise CheckpointError(
            f"{path}: holds a projector with tensors {', '.join(sorted(tensors))}, the model's "
            f"({model.config.mm_projector_type or 'linear'}) has {', '.join(sorted(expected))}. "
            "Set mm_projector_type to the kind that the file was trained with."
        )
    for name, value in tensors.items():
        copy_tensor(projector.get_parameter(name), value, f"mm_projector.{name}", path)
    newline = next((name for name in adapter if name.endswith("image_newline")), None)
    if newline is not None and getattr(model.get_model(), "image_newline", None) is not None:
        copy_tensor(model.get_model().image_newline, adapter.tensor(newline), "image_newline", path)


def load_image_token_rows(model: Any, path: str | Path, num_new: int) -> None:
    """Copies the trained rows of `<im_start>` and `<im_end>` into the last `num_new` rows of the token embedding.

    The file holds the whole embedding table (v0), only the new rows (released "trimmed" projectors), or none (v1 and
    later), in which case the rows stay as they are and that is logged.

    Raises:
        ShapeMismatch: an embedding table of neither form.
    """
    adapter = open_adapter(path)
    name = next((name for name in adapter if name.endswith("embed_tokens.weight")), None)
    if name is None:
        log.warning("%s has no rows for the image start and end tokens; they stay at the mean of the vocabulary.", path)
        return
    rows, embedding = adapter.tensor(name), model.get_input_embeddings().weight
    if rows.shape[1] != embedding.shape[1] or rows.shape[0] not in (num_new, embedding.shape[0]):
        raise ShapeMismatch(name, path, tuple(rows.shape), (num_new, embedding.shape[1]))
    embedding.data[-num_new:] = rows[-num_new:].to(embedding)


def copy_tensor(target: Tensor, value: Tensor, name: str, path: str | Path) -> None:
    """Copies `value` into `target`.

    Raises:
        ShapeMismatch: names both shapes and the file.
    """
    if target.shape != value.shape:
        raise ShapeMismatch(name, path, tuple(value.shape), tuple(target.shape))
    target.data.copy_(value)
