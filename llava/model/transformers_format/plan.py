"""Gathers the parts of a LLaVA and plans the tensors to write, for both directions of a conversion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, InvalidRequest
from llava.mm_utils import processed_edge
from llava.model.multimodal_encoder.families import FAMILIES, TowerFamily, num_prefix_tokens
from llava.model.weights.reader import EMBEDDING, OUTPUT, OWN_TOWER, open_checkpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from llava.model.loading.model_folder import ModelFolder
    from llava.model.weights.reader import Checkpoint
    from llava.model.weights.writer import CheckpointWriter, TensorSpec

EMBEDDINGS = (EMBEDDING, OUTPUT)
"""Names of the tensors with one row for each token."""
TOKENIZER_KEY = "tokenizer"
"""Key under `llava_source` in an export's config that holds the original's small tokenizer files."""


@dataclass(frozen=True)
class TowerWeights:
    """The vision tower of a checkpoint, wherever its weights are."""

    folder: Path
    """Folder with the settings of the tower's image processor."""
    config: Any
    """transformers' config of the vision model."""
    weights: Checkpoint
    names: Mapping[str, str]
    """Name of each tensor in files that all releases of transformers read -> its name in `weights`."""

    @property
    def family(self) -> TowerFamily:
        return FAMILIES[self.config.model_type]

    @property
    def num_prefix_tokens(self) -> int:
        """Number of its features before the patches."""
        return num_prefix_tokens(self.config)

    @cached_property
    def image_processor(self) -> Any:
        """What prepares its images.

        Raises:
            CheckpointError: the folder has none, or an unknown one.
        """
        from llava.model.multimodal_encoder.image_processors import load_image_processor

        return load_image_processor(self.folder, self.config.model_type)

    @property
    def image_size(self) -> int:
        """Side in pixels of the square that its image processor makes."""
        return processed_edge(self.image_processor)


def open_parts(folder: ModelFolder, vision_tower: str | None) -> tuple[Checkpoint, dict[str, str], TowerWeights]:
    """Opens the weights of a LLaVA and of its tower.

    Returns:
        The checkpoint, our name of each of its tensors except the tower's -> its name there, and the tower.

    Raises:
        CheckpointError: missing tensors, or no tower.
        InvalidRequest: a tower that transformers' LLaVA cannot have.
    """
    from llava.model.loading.tensor_check import check_tensors
    from llava.model.weights.names import TOWER_PREFIX

    checkpoint = folder.open_weights()
    names = folder.tensor_names(checkpoint)
    check_tensors(folder.settings, checkpoint, names)
    own = {name: theirs for name, theirs in names.items() if name.startswith(TOWER_PREFIX)}
    names = {name: theirs for name, theirs in names.items() if name not in own}
    named = str(vision_tower or folder.settings.get("mm_vision_tower"))
    if own and vision_tower is None:
        tower = _tower_within(folder, named, checkpoint, own)
    else:
        tower = _tower_beside(folder, named)
    if not tower.family.exportable:
        known = ", ".join(kind for kind, family in FAMILIES.items() if family.exportable)
        raise InvalidRequest(
            f"{tower.folder}: transformers' LLaVA would compute other features with a tower of type "
            f"{tower.config.model_type}, so it cannot be converted. Towers that can be: {known}."
        )
    return checkpoint, names, _checked(tower)


def _checked(tower: TowerWeights) -> TowerWeights:
    """Checks that a tower has the tensors that its config asks for, and no others, and spells their names alike.

    Raises:
        CheckpointError: names the first one that is missing or unknown.
    """
    from llava.model.multimodal_encoder.file_names import tower_names

    names = tower_names(tower.config)
    found = {names.in_module[name]: theirs for name, theirs in tower.names.items() if name in names.in_module}
    # What follows the encoder never runs, and some releases leave it out.
    unneeded = ("post_layernorm.", "layernorm.", "head.", "pooler.", "embeddings.mask_token")
    missing = [names.in_files[name] for name in names.in_files if name not in found and not name.startswith(unneeded)]
    unknown = [name for name in tower.names if name not in names.in_module and not name.startswith(unneeded)]
    for wrong, what in ((missing, "are missing"), (unknown, "do not belong to its config")):
        if wrong:
            raise CheckpointError(
                f"{tower.weights.files[0].parent}: {len(wrong)} tensors of the vision tower "
                f"({tower.config.model_type}) {what}, such as {wrong[0]}."
            )
    return replace(tower, names={names.in_files[name]: theirs for name, theirs in found.items()})


def _tower_within(folder: ModelFolder, named: str, checkpoint: Checkpoint, own: Mapping[str, str]) -> TowerWeights:
    """Describes a tower whose weights are among the model's."""
    from llava.model.multimodal_encoder.builder import config_from_settings, find_vision_tower, tower_config
    from llava.model.weights.names import TOWER_PREFIX

    names = {name.removeprefix(f"{TOWER_PREFIX}vision_tower."): theirs for name, theirs in own.items()}
    if folder.vision_settings is not None:
        return TowerWeights(folder.path, config_from_settings(folder.vision_settings), checkpoint, names)
    place = folder.path / OWN_TOWER
    if not (place / "config.json").is_file():
        place = find_vision_tower(named, model_folder=folder.path)
    return TowerWeights(place, tower_config(place), checkpoint, names)


def _tower_beside(folder: ModelFolder, named: str) -> TowerWeights:
    """Opens a tower that has its own folder."""
    from llava.model.multimodal_encoder.builder import find_vision_tower, tower_config

    place = find_vision_tower(named, model_folder=folder.path)
    weights = open_checkpoint(place)
    names = {
        name: name
        for name in weights
        if not name.startswith(("text_", "logit_", "visual_projection")) and not name.endswith("position_ids")
    }
    return TowerWeights(place, tower_config(place), weights, names)


class ConversionPlan:
    """The tensors of an output, in order, and where each comes from."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype | None):
        self.specs: list[TensorSpec] = []
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._blocks: dict[str, tuple[Checkpoint, str, Tensor | None]] = {}

    def add(
        self,
        name: str,
        *,
        source: str = "",
        value: Tensor | None = None,
        rows: int | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Adds one tensor: `value`, or `source` of a checkpoint.

        Args:
            rows: number of rows to write; missing ones are the mean of all others. None keeps the tensor as it is.
            checkpoint: where `source` is; None is the plan's own checkpoint.
        """
        from llava.model.weights.writer import TensorSpec

        weights = checkpoint or self._checkpoint
        shape = tuple(value.shape) if value is not None else weights.shape(source)
        own = value.dtype if value is not None else weights.dtype(source)
        dtype = self._dtype if self._dtype is not None and own.is_floating_point else own
        self.specs.append(TensorSpec(name, (rows, *shape[1:]) if rows is not None else shape, dtype))
        self._blocks[name] = (weights, source, value)

    @property
    def num_bytes(self) -> int:
        return sum(spec.num_bytes for spec in self.specs)

    @property
    def dominant_dtype(self) -> torch.dtype:
        from llava.model.weights.folder import dominant_dtype

        return dominant_dtype(self.specs)

    def write(self, writer: CheckpointWriter) -> None:
        for spec in self.specs:
            writer.write(spec.name, self._read(spec))

    def _read(self, spec: TensorSpec) -> Iterator[Tensor]:
        weights, source, value = self._blocks[spec.name]
        if value is not None:
            yield value.to(spec.dtype)
            return
        total, count = None, 0
        for first, last in weights.row_ranges(source):
            block = weights.rows(source, first, last)
            if not spec.shape:
                yield block.to(spec.dtype)
                return
            block = block[: max(0, spec.shape[0] - first)]
            count += len(block)
            if spec.shape[0] > weights.shape(source)[0]:
                total = block.float().sum(0) + (0 if total is None else total)
            yield block.to(spec.dtype)
        if total is not None:
            # The logit of a mean row is the mean of all logits: a new token is never the most likely one.
            yield (total / count).expand(spec.shape[0] - count, *spec.shape[1:]).to(spec.dtype)
