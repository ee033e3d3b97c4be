"""Finds and loads the vision tower that a checkpoint or a training command names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, VisionTowerNotFound, WeightsNotFinite
from llava.model.multimodal_encoder.families import FAMILIES, SelectLayer, family_of
from llava.model.multimodal_encoder.image_processors import load_image_processor
from llava.model.weights.finite import first_not_finite, num_not_finite
from llava.model.weights.reader import open_checkpoint, read_model_json, resolve_folder

if TYPE_CHECKING:
    import torch

    from llava.model.multimodal_encoder.vision_tower import VisionTower


def find_vision_tower(name: str, *, model_folder: str | Path | None = None) -> Path:
    """Finds the folder of a tower: inside the model folder, from the current folder, or on the hub, in this order.

    Raises:
        VisionTowerNotFound: it is in none of these places.
    """
    if model_folder is not None and (Path(model_folder) / name / "config.json").is_file():
        return Path(model_folder) / name
    try:
        return resolve_folder(name, what="vision tower")
    except CheckpointError as error:
        raise VisionTowerNotFound(name, model_folder, str(error)) from error


def tower_config(folder: Path) -> Any:
    """Reads the transformers config of the vision part of the model in `folder`.

    Raises:
        CheckpointError: a model that is not a known vision model.
    """
    from transformers import AutoConfig

    family_of(read_model_json(folder / "config.json").get("model_type"), folder)
    config = AutoConfig.from_pretrained(folder)
    return getattr(config, "vision_config", config)


def config_from_settings(settings: Mapping[str, Any]) -> Any:
    """Builds the transformers config of a tower from the `vision_config` of a model in transformers' format.

    Raises:
        CheckpointError: a model that is not a known vision model.
    """
    from transformers import AutoConfig

    kind = settings["model_type"]
    family_of(kind, "vision_config")
    config = AutoConfig.for_model(kind, **{key: value for key, value in settings.items() if key != "model_type"})
    return getattr(config, "vision_config", config)


def build_vision_tower(
    name: str,
    *,
    model_folder: str | Path | None = None,
    select_layer: SelectLayer | str = -2,
    select_feature: str = "patch",
    dtype: torch.dtype | None = None,
) -> VisionTower:
    """Loads a vision tower with its weights, frozen and in evaluation mode, on the CPU.

    Args:
        name: a folder (absolute, in the current folder, or in `model_folder`) or a hub id.
        dtype: number format of the weights; None keeps the file's own.

    Raises:
        VisionTowerNotFound: no such folder or repository.
        CheckpointError: not a vision model, or weights that cannot be read.
    """
    import transformers

    from llava.model.multimodal_encoder.vision_tower import VisionTower

    folder = find_vision_tower(name, model_folder=model_folder)
    config = tower_config(folder)
    model_class = getattr(transformers, FAMILIES[config.model_type].model_class)
    open_checkpoint(folder)  # says what is wrong with the files, and refuses quantised ones
    try:
        model, report = model_class.from_pretrained(
            folder, config=config, dtype=dtype or "auto", weights_only=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the vision tower cannot be loaded ({str(error).splitlines()[0]}).") from error
    name_of_broken = first_not_finite(model)
    if name_of_broken is not None:
        raise WeightsNotFinite(name_of_broken, folder, num_not_finite(model.state_dict()[name_of_broken]))
    processor = load_image_processor(folder, config.model_type)
    tower = VisionTower(model, processor, select_layer=select_layer, select_feature=select_feature)
    missing = tower.needed(f"vision_tower.{name}" for name in report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors of the vision tower are missing, "
            f"the first is {missing[0]}. Fetch the folder again."
        )
    return tower.requires_grad_(False).eval()


def empty_vision_tower(
    config: Any, image_processor: Any, *, select_layer: SelectLayer | str, select_feature: str
) -> VisionTower:
    """Builds a tower from its transformers config, for weights that come from a checkpoint that trained it."""
    import transformers

    from llava.model.multimodal_encoder.vision_tower import VisionTower

    model = getattr(transformers, FAMILIES[config.model_type].model_class)(config)
    tower = VisionTower(model, image_processor, select_layer=select_layer, select_feature=select_feature)
    return tower.requires_grad_(False).eval()
