"""Writes what a run has trained, in the files that every release reads, and reads it back to resume.

There is one writer for each kind of result. A writer says which tensors it needs, gets them whole from every process
(`llava.train.parallel.gather`), and is called in one process to write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from llava.errors import CheckpointError
from llava.model.weights.adapter import ADAPTER_FILE, load_adapter, save_adapter
from llava.model.weights.reader import EMBEDDING, Checkpoint, open_checkpoint
from llava.train.setup.trainable import PROJECTOR, ROWS, TOWER, TokenRows, merged_table

_ROWS = f"model.embed_tokens.{ROWS}.rows"
_NEWLINE = "model.image_newline"


class ResultWriter(Protocol):
    """Writes and reads one kind of result."""

    def wants(self, name: str) -> bool:
        """Tells whether the tensor of this name belongs to the result."""

    def write(self, folder: Path, tensors: dict[str, Tensor], model: Any) -> None:
        """Writes the result to a folder that exists.

        Args:
            tensors: all wanted tensors, whole, on the CPU.
            model: the trained model, for its config.
        """

    def read(self, folder: Path, model: Any) -> None:
        """Puts a result back into a model that is not sharded.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of another shape.
        """


class AdapterWriter:
    """Writes the projector, and the embedding with the rows of the image tokens if these train (stage 1)."""

    def __init__(self, rows: TokenRows | None) -> None:
        self._rows = rows

    def wants(self, name: str) -> bool:
        if name in (EMBEDDING, _ROWS):
            return self._rows is not None
        return name.startswith((PROJECTOR, _NEWLINE))

    def write(self, folder: Path, tensors: dict[str, Tensor], model: Any) -> None:
        result: dict[str, Tensor] = {}
        if self._rows is not None:
            result[EMBEDDING] = merged_table(tensors[EMBEDDING], tensors[_ROWS], self._rows.token_ids)
        result |= {name: tensor for name, tensor in tensors.items() if name not in (EMBEDDING, _ROWS)}
        save_adapter(result, folder / ADAPTER_FILE)
        model.config.save_pretrained(folder)

    def read(self, folder: Path, model: Any) -> None:
        if not (folder / ADAPTER_FILE).is_file():
            raise CheckpointError(f"{folder}: {ADAPTER_FILE} is missing; this is not a stage 1 checkpoint.")
        load_adapter(model, self._rows, folder / ADAPTER_FILE)


class ModelWriter:
    """Writes the whole model as safetensors, in the original's names."""

    def wants(self, name: str) -> bool:
        return True

    def write(self, folder: Path, tensors: dict[str, Tensor], model: Any) -> None:
        model.save_pretrained(folder, state_dict=tensors)

    def read(self, folder: Path, model: Any) -> None:
        checkpoint = open_checkpoint(folder)
        result = model.load_state_dict(_by_own_names(checkpoint, model), strict=False)
        # transformers would only warn, and continue with an optimizer state that belongs to other weights.
        missing = list(result.missing_keys)
        if _is_tied(model):
            missing = [name for name in missing if name != "lm_head.weight"]
        if missing or result.unexpected_keys:
            wrong = ", ".join([*missing, *result.unexpected_keys][:5])
            raise CheckpointError(f"{folder}: the weights do not fit this model: {wrong}. Use another --output_dir.")


def _by_own_names(checkpoint: Checkpoint, model: Any) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint by the model's names, without those of a vision tower that does not train."""
    tower = model.get_model()._modules.get("vision_tower")
    tensors = {}
    for name in checkpoint:
        if not name.startswith(TOWER):
            tensors[name] = checkpoint.tensor(name)
        elif tower is not None:
            tensors[TOWER + tower.own_name(name.removeprefix(TOWER))] = checkpoint.tensor(name)
    return tensors


def _is_tied(model: Any) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Returns the size of tensors, whether sharded or not."""
    # A tensor that DeepSpeed has cut up is empty, and says its size in an attribute.
    return sum(getattr(tensor, "ds_numel", tensor.numel()) * tensor.element_size() for tensor in tensors.values())
