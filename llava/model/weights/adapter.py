"""Reads and writes trained projectors (and the rows of image tokens beside them): the files of every release.

The file (`mm_projector.bin`, or `.safetensors`) is a flat table of tensors: `model.mm_projector.weight` and `.bias` (or
`.0.weight`, ... for deeper projectors), and `model.embed_tokens.weight` whole if start and end tokens were trained.
Releases name the same tensor differently: `model.mm_projector.weight` (v0), `model.mm_projector.0.weight` (v1.5),
`base_model.model.model.mm_projector.0.weight` (LoRA), `transformer.mm_projector.weight`, or no prefix at all. What
follows `mm_projector.` decides.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llava.errors import CheckpointError, ShapeMismatch
from llava.files.json_files import whole_file
from llava.model.weights.finite import check_finite
from llava.model.weights.reader import EMBEDDING, Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

ADAPTER_FILE = "mm_projector.bin"
"""The file that training writes and that every release of the original reads."""
PROJECTOR_FILES = (ADAPTER_FILE, "mm_projector.safetensors")
ADAPTER_FILES = (*PROJECTOR_FILES, "non_lora_trainables.bin")
"""Files of a folder that may hold a projector, in order of preference."""
ADAPTER_PARTS = ("embed_tokens", "mm_projector", "image_newline")
"""Parts of the names of an adapter's tensors. The embedding comes first, because the readers of 2023 keep only the last
part of each name: `embed_tokens.weight` must stand before the projector's `weight`."""
_PROJECTOR = "mm_projector."


class TrainedRows(Protocol):
    """The rows of a token embedding that were trained on their own."""

    def merged(self, embedding: nn.Embedding) -> Tensor:
        """Returns the whole table, [vocabulary, hidden], with the trained rows in it."""

    def load(self, table: Tensor) -> None:
        """Takes the rows from a whole table."""


# From a file into a model that is used


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


def apply_adapter(model: Any, path: Path) -> None:
    """Loads the projector of a file or folder into a model, and the rows of the image tokens if the model uses them.

    Raises:
        CheckpointError: the file does not fit the model.
    """
    load_projector(model, path)
    if model.config.mm_use_im_start_end:
        load_image_token_rows(model, path, 2)


def load_projector(model: Any, path: str | Path) -> None:
    """Copies a trained projector into `model`, and `image_newline` if both have it.

    Raises:
        CheckpointError: the file has no projector, or one of another kind.
        ShapeMismatch: a tensor of another shape.
    """
    adapter = open_adapter(path)
    tensors = {name.split(_PROJECTOR, 1)[1]: _read(adapter, name) for name in adapter if _PROJECTOR in name}
    projector = model.get_model().mm_projector
    expected = projector.state_dict()
    if not tensors and expected:
        raise CheckpointError(
            f"{path}: has no projector (no tensor named mm_projector.*). Found: {', '.join(adapter)}."
        )
    if set(tensors) != set(expected):
        raise CheckpointError(
            f"{path}: holds a projector with tensors {', '.join(sorted(tensors))}, but the model's "
            f"({model.config.mm_projector_type or 'linear'}) has {', '.join(sorted(expected))}. "
            "Set mm_projector_type to the kind that the file was trained with."
        )
    for name, value in tensors.items():
        _copy(projector.get_parameter(name), value, f"mm_projector.{name}", path)
    newline = next((name for name in adapter if name.endswith("image_newline")), None)
    if newline is not None and getattr(model.get_model(), "image_newline", None) is not None:
        _copy(model.get_model().image_newline, _read(adapter, newline), "image_newline", path)


def load_image_token_rows(model: Any, path: str | Path, num_new: int) -> None:
    """Copies the trained rows of `<im_start>` and `<im_end>` into the last `num_new` rows of the token embedding.

    The file holds the whole embedding table (v0), only the new rows (released "trimmed" projectors), or none (v1 and
    later). Without rows in the file the model's stay as they are, and a warning is logged.

    Raises:
        ShapeMismatch: an embedding table of neither form.
    """
    adapter = open_adapter(path)
    name = next((name for name in adapter if name.endswith("embed_tokens.weight")), None)
    if name is None:
        log.warning("%s has no rows for the image start and end tokens; they stay at the mean of the vocabulary.", path)
        return
    rows, embedding = _read(adapter, name), model.get_input_embeddings().weight
    if rows.shape[1] != embedding.shape[1] or rows.shape[0] not in (num_new, embedding.shape[0]):
        raise ShapeMismatch(name, path, tuple(rows.shape), (num_new, embedding.shape[1]))
    embedding.data[-num_new:] = rows[-num_new:].to(embedding)


def _read(adapter: Checkpoint, name: str) -> Tensor:
    return check_finite(adapter.tensor(name), name, adapter.file_of(name))


def _copy(target: Tensor, value: Tensor, name: str, path: str | Path) -> None:
    if target.shape != value.shape:
        raise ShapeMismatch(name, path, tuple(value.shape), tuple(target.shape))
    target.data.copy_(value)


# From a model in training or a checkpoint into a file, and back


def adapter_tensors(model: Any, rows: TrainedRows | None) -> dict[str, Tensor]:
    """Returns the tensors of a model's adapter, on the CPU, in the order of `ADAPTER_PARTS`."""
    tensors: dict[str, Tensor] = {}
    if rows is not None:
        tensors[EMBEDDING] = rows.merged(model.get_input_embeddings()).cpu()
    for name, tensor in model.state_dict().items():
        if name.startswith((f"model.{_PROJECTOR}", "model.image_newline")):
            tensors[name] = tensor.detach().cpu().clone()
    return tensors


def names_to_extract(checkpoint: Checkpoint, *, with_rows: bool) -> list[str]:
    """Returns the names of the adapter's tensors in a checkpoint, in the order of `ADAPTER_PARTS`.

    Args:
        with_rows: whether the token embedding is part of the adapter.
    """
    parts = ADAPTER_PARTS if with_rows else ADAPTER_PARTS[1:]
    return [name for part in parts for name in checkpoint if part in name]


def save_adapter(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes the table in one step, so that readers see the old file or the whole new one. Creates the folder.

    A name that ends in `.safetensors` gives that format; any other is written as a `.bin` file.
    """
    import torch

    with whole_file(file) as temporary:
        if file.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        else:
            torch.save(tensors, temporary)


def load_adapter(model: PreTrainedModel, rows: TrainedRows | None, file: Path) -> None:
    """Puts a saved adapter back into a model of the same shape, in training.

    Raises:
        CheckpointError: the file is unreadable, or its names or shapes are not this model's.
    """
    saved = Checkpoint([file])
    expected = adapter_tensors(model, rows)
    if set(saved) != set(expected):
        difference = sorted(set(saved) ^ set(expected))
        raise CheckpointError(f"{file}: the tensors do not match those that this run trains: {', '.join(difference)}.")
    for name in saved:
        if saved.shape(name) != tuple(expected[name].shape):
            raise CheckpointError(
                f"{file}: {name} has shape {list(saved.shape(name))}, expected {list(expected[name].shape)}."
            )
    if rows is not None:
        rows.load(saved.tensor(EMBEDDING))
    tensors = {name: saved.tensor(name) for name in saved if name != EMBEDDING}
    model.load_state_dict(tensors, strict=False)
