"""Writes what a LoRA run has trained, as the original does, and reads it back to resume.

The folder holds the adapter in PEFT's format (`adapter_config.json`, `adapter_model.safetensors`) and, in
`non_lora_trainables.bin`, everything else that the base does not have: the projector, a trained vision tower, and the
embeddings if tokens were added or their rows trained.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from llava.errors import CheckpointError
from llava.model.weights.adapter import save_adapter
from llava.model.weights.lora import CONFIG_FILE, LORA_FILES, WHOLE_FILE
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import EMBEDDING, OUTPUT, OWN_TOWER, Checkpoint
from llava.train.setup.lora import ADAPTER_NAME, copy_into
from llava.train.setup.trainable import PROJECTOR, ROWS, TokenRows, merged_table

_ROWS = f"model.embed_tokens.{ROWS}.rows"
_SAVED_WHOLE = (PROJECTOR, "model.image_newline")
"""Parts that are always saved, so that the base may be a plain language model."""
_WRAPPER = "base_model.model."
"""Start of the names of all tensors in the files, which PEFT's classes put there."""


class LoraWriter:
    """Writes an adapter and the tensors that trained beside it."""

    def __init__(
        self, model: Any, rows: TokenRows | None, *, base_num_tokens: int, also: frozenset[str] = frozenset()
    ) -> None:
        """
        Args:
            model: a model that `add_lora` and `select_trainable` have prepared, before it is sharded.
            rows: the embedding rows that train.
            base_num_tokens: rows of the base's embedding; new rows are saved with the table that they are in.
            also: names of further parameters to save.
        """
        self._config = model.peft_config[ADAPTER_NAME]
        self._rows = rows
        self._tower = getattr(model.get_model(), "vision_tower", None)
        self._names: dict[str, str] = {}  # name of each saved parameter -> its name in the files
        tables = _tables(model, rows, base_num_tokens)
        for name, parameter in model.named_parameters():
            is_saved = parameter.requires_grad or name.startswith(_SAVED_WHOLE) or name in tables or name in also
            if is_saved and name != _ROWS:
                self._names[name] = self._name_in_file(name)

    def wants(self, name: str) -> bool:
        return name in self._names or (name == _ROWS and self._rows is not None)

    def write(self, folder: Path, tensors: dict[str, Tensor], model: Any) -> None:
        adapter: dict[str, Tensor] = {}
        whole: dict[str, Tensor] = {}
        for name, theirs in self._names.items():
            tensor = tensors[name]
            if name == EMBEDDING and self._rows is not None:
                tensor = merged_table(tensor, tensors[_ROWS], self._rows.token_ids)
            (adapter if _is_of_adapter(name) else whole)[theirs] = tensor
        save_adapter(adapter, folder / LORA_FILES[0])
        save_adapter(whole, folder / WHOLE_FILE)
        self._config.inference_mode = True  # as PEFT writes it, for those who load the adapter
        try:
            self._config.save_pretrained(str(folder))
        finally:
            self._config.inference_mode = False
        if self._tower is not None and model.config.unfreeze_mm_vision_tower:
            self._tower.describe(folder / OWN_TOWER)
        config = copy.deepcopy(model.config)
        # The base was quantised while it was loaded; what the folder belongs to is not.
        config.__dict__.pop("quantization_config", None)
        config.save_pretrained(folder)

    def read(self, folder: Path, model: Any) -> None:
        for file in (CONFIG_FILE, LORA_FILES[0], WHOLE_FILE):
            if not (folder / file).is_file():
                raise CheckpointError(f"{folder}: {file} is missing; this is not a checkpoint of a LoRA run.")
        saved = Checkpoint([folder / LORA_FILES[0], folder / WHOLE_FILE])
        if set(saved) != set(self._names.values()):
            difference = ", ".join(sorted(set(saved) ^ set(self._names.values()))[:5])
            raise CheckpointError(
                f"{folder}: the tensors do not match those that this run saves: {difference}. Use another --output_dir."
            )
        parameters = dict(model.named_parameters())
        for name, theirs in self._names.items():
            value = saved.tensor(theirs)
            copy_into(parameters[name], value, theirs, folder)
            if name == EMBEDDING and self._rows is not None:
                self._rows.load(value)

    def _name_in_file(self, name: str) -> str:
        if name.startswith(TOWER_PREFIX):
            assert self._tower is not None
            name = TOWER_PREFIX + self._tower.original_name(name.removeprefix(TOWER_PREFIX))
        if _is_of_adapter(name):
            # PEFT's files keep the names of its first releases, in which DoRA's magnitudes were no module.
            name = name.replace(f".{ADAPTER_NAME}.", ".").replace(
                "lora_magnitude_vector.weight", "lora_magnitude_vector"
            )
        return f"{_WRAPPER}{name}"


def _tables(model: Any, rows: TokenRows | None, base_num_tokens: int) -> set[str]:
    """Returns the names of the embeddings that differ from the base's."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    grown = embedding.shape[0] != base_num_tokens
    tables = {EMBEDDING} if grown or rows is not None else set()
    return tables | ({OUTPUT} if grown and output is not embedding else set())


def _is_of_adapter(name: str) -> bool:
    """Tells whether PEFT's format has a place for a parameter: its matrices, and biases of adapted layers."""
    return ".lora_" in name or name.endswith(".base_layer.bias")
