"""Puts a LoRA adapter into its base, tensor by tensor, for loading and for merging alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, InvalidRequest
from llava.model.loading.tensor_check import expected_shapes
from llava.model.weights.lora import adapted_tensors
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import EMBEDDING, Checkpoint, DerivedTensor, open_checkpoint

if TYPE_CHECKING:
    from llava.model.loading.model_folder import ModelFolder
    from llava.model.weights.lora import LoraAdapter


@dataclass(frozen=True, slots=True)
class AdaptedBase:
    """The tensors of a base with an adapter in them. Changed tensors are computed when they are read."""

    checkpoint: Checkpoint
    names: Mapping[str, str]
    """Our name of each tensor -> its name in `checkpoint`."""
    settings: Mapping[str, Any]
    """The run's settings, with the size of the vocabulary that the tensors have."""
    changes_tower: bool
    tower_folder: Path | None
    """Folder of the vision tower that the adapter changes, if the base has its tower in a folder of its own."""


def adapt(
    adapter: LoraAdapter,
    run: ModelFolder,
    base: ModelFolder,
    checkpoint: Checkpoint,
    *,
    vision_tower: str | Path | None = None,
) -> AdaptedBase:
    """Puts an adapter into its base.

    Args:
        run: the adapter's folder, whose settings the model has.
        checkpoint: the base's weights.
        vision_tower: folder or hub id of the vision tower, in place of what the run's settings say.

    Raises:
        CheckpointError: a tensor of the adapter belongs to nothing in the base or in the model of the run.
        InvalidRequest: the adapter changes the base's own vision tower, which `vision_tower` would replace.
        VisionTowerNotFound: the adapter changes a vision tower that cannot be found.
    """
    # transformers' config beside an adapter repeats the base's; the base's own says where its tower is.
    settings = dict(run.settings if run.vision_settings is None else base.settings)
    names = base.tensor_names(checkpoint)
    parts = {ours: (checkpoint, theirs) for ours, theirs in names.items()}
    changes_tower = any(name.startswith(TOWER_PREFIX) for name in adapter.names)
    tower_folder = None
    if changes_tower:
        has_own = any(name.startswith(TOWER_PREFIX) for name in names)
        if has_own and vision_tower is not None:
            raise InvalidRequest(
                f"{adapter.folder}: the adapter changes the vision tower in {base.path}, which --vision-tower would "
                "replace. Remove --vision-tower."
            )
        if not has_own:
            tower_folder, tower = _tower_beside(str(vision_tower or settings.get("mm_vision_tower")), run, base)
            parts |= tower
    if changes_tower or base.vision_settings is not None:
        settings["unfreeze_mm_vision_tower"] = True  # it is saved with the model
    tied = bool(settings.get("tie_word_embeddings"))
    tensors = adapted_tensors(adapter, parts, tied=tied)
    derived = {
        names.get(ours, ours): DerivedTensor(tensor.shape, tensor.dtype, tensor.whole, tensor.rows)
        for ours, tensor in tensors.items()
    }
    if tower_folder is not None:
        # The tower becomes part of the checkpoint whole, since it is no longer the one in its folder.
        for ours, (weights, theirs) in parts.items():
            if ours.startswith(TOWER_PREFIX) and ours not in tensors:
                derived[ours] = _unchanged(weights, theirs)
    adapted = checkpoint.with_replaced(derived, file=adapter.folder)
    names = {**names, **{ours: names.get(ours, ours) for ours in (*tensors, *parts)}}
    settings["vocab_size"] = adapted.shape(names[EMBEDDING])[0] if EMBEDDING in names else settings["vocab_size"]
    _refuse_unknown(adapter, settings, parts)
    return AdaptedBase(adapted, names, settings, changes_tower, tower_folder)


def _unchanged(weights: Checkpoint, name: str) -> DerivedTensor:
    return DerivedTensor(
        weights.shape(name),
        weights.dtype_name(name),
        lambda: weights.tensor(name),
        lambda first, last: weights.rows(name, first, last),
    )


def _tower_beside(named: str, run: ModelFolder, base: ModelFolder) -> tuple[Path, dict[str, tuple[Checkpoint, str]]]:
    """Opens a vision tower that has its own folder; returns the folder and our names of its tensors."""
    from llava.model.multimodal_encoder.builder import find_vision_tower

    home = base.path if (base.path / named / "config.json").is_file() else run.path
    place = find_vision_tower(named, model_folder=home)
    weights = open_checkpoint(place)
    names = {
        f"{TOWER_PREFIX}vision_tower.{name.removeprefix('vision_model.')}": (weights, name)
        for name in weights
        if not name.startswith(("text_", "logit_", "visual_projection")) and not name.endswith("position_ids")
    }
    return place, names


def _refuse_unknown(
    adapter: LoraAdapter, settings: Mapping[str, Any], parts: Mapping[str, tuple[Checkpoint, str]]
) -> None:
    """Refuses tensors that neither the base has nor the model of the run needs."""
    expected = expected_shapes(settings)
    for name in adapter.names:
        if name not in parts and name not in expected:
            where = "its config.json describes no projector" if "mm_" in name else "the model has no such tensor"
            raise CheckpointError(f"{adapter.described(name)}, but {where}. Is it the right base?")
