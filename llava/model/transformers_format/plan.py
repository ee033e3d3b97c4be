"""What both directions of a conversion share: the parts of a LLaVA, and the tensors that are to be written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import InvalidRequest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from llava.model.loading.flavours import Flavour
    from llava.model.weights.reader import Checkpoint
    from llava.model.weights.writer import CheckpointWriter, TensorSpec

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors with one row a token."""
TOKENIZER_KEY = "tokenizer"
"""Under `llava_source` in an export's config: the original's small tokenizer files."""


class Tower:
    """The vision tower of a checkpoint, wherever its weights are."""

    def __init__(self, folder: Path, config: Any, weights: Checkpoint, names: dict[str, str]):
        self.folder = folder
        """Holds its image processor's settings."""
        self.config = config
        """transformers' config of the vision model."""
        self.weights = weights
        self.names = names
        """Name without any prefix -> name in `weights`."""


def open_parts(folder: Path, flavour: Flavour, vision_tower: str | None) -> tuple[Checkpoint, dict[str, str], Tower]:
    """The weights of a LLaVA, our name of each tensor but the tower's -> its name there, and the tower.

    Raises:
        CheckpointError: missing tensors, or no tower.
        InvalidRequest: a tower that is no CLIP.
    """
    from llava.model.builder import check_tensors
    from llava.model.loading.flavours import TOWER_PREFIX
    from llava.model.multimodal_encoder.builder import find_vision_tower, tower_config
    from llava.model.transformers_format.layout import one_layer
    from llava.model.weights.reader import OWN_TOWER, open_checkpoint, read_json

    checkpoint = one_layer(open_checkpoint(folder), read_json(folder / "config.json"))
    sources = flavour.rename(checkpoint)
    check_tensors(flavour.config, checkpoint, sources)
    own = {name: theirs for name, theirs in sources.items() if name.startswith(TOWER_PREFIX)}
    sources = {name: theirs for name, theirs in sources.items() if name not in own}
    if own and vision_tower is None:
        place, described = folder, flavour.vision_config
        if described is None:
            place = folder / OWN_TOWER
            if not (place / "config.json").is_file():
                place = find_vision_tower(flavour.config.mm_vision_tower or "", model_folder=folder)
            described = tower_config(place)
        names = {name.removeprefix(f"{TOWER_PREFIX}vision_tower."): theirs for name, theirs in own.items()}
        tower = Tower(place, described, checkpoint, names)
    else:
        place = find_vision_tower(str(vision_tower or flavour.config.mm_vision_tower), model_folder=folder)
        weights = open_checkpoint(place)
        names = {
            name.removeprefix("vision_model."): name
            for name in weights
            if not name.startswith(("text_", "logit_", "visual_projection")) and not name.endswith("position_ids")
        }
        tower = Tower(place, tower_config(place), weights, names)
    if tower.config.model_type != "clip_vision_model":
        raise InvalidRequest(f"{place}: is a tower of type {tower.config.model_type!r}; CLIP towers can be converted.")
    return checkpoint, sources, tower


class Plan:
    """The tensors of an output in order, and where each comes from."""

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
        """One tensor, of a checkpoint or given; `rows` cuts it, or lengthens it by the mean of its rows."""
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
