"""Loads the vision tower of a plan: from its own folder, or from the checkpoint that trained it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, VisionTowerNotFound
from llava.model.loading.language_model import progress_bars
from llava.model.multimodal_encoder import builder
from llava.model.weights.finite import check_finite
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import OWN_TOWER, Checkpoint

if TYPE_CHECKING:
    from llava.model.language_model.causal_lm import LlavaCausalLM
    from llava.model.loading.plan import LoadPlan
    from llava.model.multimodal_encoder.vision_tower import VisionTower

log = logging.getLogger(__name__)


def attach_tower(model: LlavaCausalLM, plan: LoadPlan) -> Any:
    """Loads the vision tower of a plan, if it has one, and attaches it to the model.

    Returns:
        The tower's image processor; None without a tower.

    Raises:
        CheckpointError: as `load_tower`, or the projector expects features of another width.
    """
    if not plan.folder.has_vision:
        return None
    with progress_bars(False):
        tower, model.config.mm_vision_tower = load_tower(plan)
    model.attach_vision_tower(tower)
    return tower.image_processor


def load_tower(plan: LoadPlan) -> tuple[VisionTower, str | None]:
    """Loads the vision tower on the CPU.

    Returns:
        The tower, and what the model's config should say of it (`mm_vision_tower`), so that the tower is found again
        wherever the model is saved to.

    Raises:
        CheckpointError: (or one of its kinds) the tower cannot be found or does not fit.
    """
    settings, folder = plan.folder.settings, plan.folder.path
    named = str(plan.tower or settings.get("mm_vision_tower"))
    select = {
        "select_layer": settings["mm_vision_select_layer"],
        "select_feature": settings.get("mm_vision_select_feature") or "patch",
    }
    home = _home(named, folder, plan.weights_folder)
    if not plan.tower_tensors or plan.tower is not None:
        if plan.tower_tensors:
            log.warning("%s: --vision-tower %s replaces the trained tower of the model.", plan.weights_folder, named)
        tower = builder.build_vision_tower(named, model_folder=home, dtype=plan.dtype, **select)
        if (home / named / "config.json").is_file():
            return tower, str((home / named).absolute())
        return tower, settings.get("mm_vision_tower")
    config, place = _described(plan, named, home)
    image_processor = builder.load_image_processor(place, config.model_type)
    tower = builder.empty_vision_tower(config, image_processor, **select).to(plan.dtype)
    _fill(tower, plan.checkpoint, plan.tower_tensors)
    return tower, settings.get("mm_vision_tower")


def _home(named: str, *folders: Path) -> Path:
    """Returns the first folder that has the tower inside, else the first folder."""
    return next((folder for folder in folders if (folder / named / "config.json").is_file()), folders[0])


def _described(plan: LoadPlan, named: str, home: Path) -> tuple[Any, Path]:
    """Returns the config of a tower whose weights are among the model's, and the folder of its image processor."""
    if plan.folder.vision_settings is not None:
        return builder.config_from_settings(plan.folder.vision_settings), plan.weights_folder
    place = plan.tower_folder or _home(OWN_TOWER, plan.folder.path, plan.weights_folder) / OWN_TOWER
    if not (place / "config.json").is_file():
        try:
            place = builder.find_vision_tower(named, model_folder=home)
        except VisionTowerNotFound as error:
            raise CheckpointError(
                f"{plan.weights_folder}: the weights of its vision tower are here, but what describes them is not: the "
                f"config.json and preprocessor_config.json of {named!r}. Put these two files into {place}. "
                "(--vision-tower would replace the trained weights by those of a folder.)"
            ) from error
    return builder.tower_config(place), place


def _fill(tower: VisionTower, checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
    folder = checkpoint.files[0].parent
    tensors = {
        tower.own_name(ours.removeprefix(TOWER_PREFIX)): check_finite(
            checkpoint.tensor(theirs), theirs, checkpoint.file_of(theirs)
        )
        for ours, theirs in names.items()
    }
    try:
        report = tower.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: the vision tower's tensors do not fit its config "
            f"({str(error).strip().splitlines()[-1].strip()})"
        ) from error
    if report.unexpected_keys:
        raise CheckpointError(
            f"{folder}: {len(report.unexpected_keys)} tensors do not belong to the vision tower "
            f"({tower.config.model_type}), such as {report.unexpected_keys[0]}."
        )
    needed = tower.needed(report.missing_keys)
    if needed:
        raise CheckpointError(f"{folder}: {len(needed)} tensors of the vision tower are missing, such as {needed[0]}.")
