"""Reads the config of a LLaVA in transformers' format: LLaVA, LLaVA-NeXT, LLaVA-OneVision and ViP-LLaVA.

These configs nest the language model's (`text_config`) and the tower's (`vision_config`). Nothing here imports PyTorch
or transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llava.errors import CheckpointError
from llava.model.multimodal_encoder.families import (
    TowerFamily,
    family_of,
    num_layers_joined,
    read_select_layer,
    vision_type,
)
from llava.model.multimodal_encoder.image_processors import processor_settings
from llava.model.transformers_format.layout import LINEAR_FORM_KEY, SOURCE_KEY
from llava.model.weights.reader import OWN_TOWER

NESTED_TYPES: Final = ("llava", "llava_next", "llava_onevision", "vipllava")
"""Types of models in transformers' format that can be read."""

_CLIP: Final = {
    "model_type": "clip_vision_model",
    "intermediate_size": 4096,
    "hidden_size": 1024,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 32000,
    "projection_dim": 768,
}
_SIGLIP: Final = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 384,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "vision_use_head": False,
}
_DEFAULT_TOWER: Final = {"llava_onevision": _SIGLIP}
"""The tower that transformers assumes for a config without `vision_config`; CLIP for any other type."""
_DEFAULT_TEXT: Final = {"llava_onevision": "qwen2"}
"""The decoder that transformers assumes for a config without `text_config`; LLaMA for any other type."""
_TOWER_DEFAULTS: Final = {
    "clip_vision_model": {"hidden_size": 768, "image_size": 224},
    "siglip_vision_model": {"hidden_size": 768, "image_size": 224},
    "dinov2": {"hidden_size": 768, "image_size": 224, "patch_size": 14},
    "vit": {"hidden_size": 768, "image_size": 224, "patch_size": 16},
}
"""The values that transformers assumes for keys that a `vision_config` does not have."""
_DEFAULT_LAYER: Final = {"llava_onevision": -1, "vipllava": [-2, -5, -8, -11, 6]}
_NEXT_GRID: Final = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_ONEVISION_SIDES: Final = (384, 768, 1152, 1536, 1920, 2304)
_NORM_EPS: Final = 1e-5

_KEYS_OF_EXPORT: Final = (
    "chat_template",
    "conv_mode",
    "im_patch_token",
    "image_aspect_ratio",
    "image_grid_pinpoints",
    "mm_patch_merge_type",
    "mm_projector_type",
    "mm_use_im_patch_token",
    "mm_use_im_start_end",
    "mm_vision_select_feature",
    "mm_vision_select_layer",
)
"""Keys for which the original config, kept inside an export, is right and the derived value is not."""


def nested_settings(path: Path, config_json: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translates a nested config to the keys of the original's.

    Args:
        path: the model's folder, for messages.

    Returns:
        The model's settings, with the decoder's type as `model_type`, and transformers' config of the tower.

    Raises:
        CheckpointError: another type of model, or a setting that cannot be followed.
    """
    kind = str(config_json.get("model_type"))
    if kind not in NESTED_TYPES:
        raise CheckpointError(
            f"{path}: is a transformers model of type {kind!r}. Of the models that nest a text_config, "
            f"{', '.join(NESTED_TYPES)} can be read."
        )
    vision: dict[str, Any] = dict(config_json.get("vision_config") or _DEFAULT_TOWER.get(kind, _CLIP))
    vision.setdefault("model_type", "clip_vision_model")
    vision["model_type"] = vision_type(str(vision["model_type"]))
    vision = _TOWER_DEFAULTS.get(vision["model_type"], {}) | vision
    family = _family(path, vision["model_type"])
    source = config_json.get(SOURCE_KEY) or {}
    _check(path, config_json, source)
    text = dict(config_json.get("text_config") or {})
    layer = config_json.get("vision_feature_layer", config_json.get("vision_feature_layers"))
    layer = _DEFAULT_LAYER.get(kind, -2) if layer is None else layer
    layer = read_select_layer(layer, f"{path / 'config.json'}: vision_feature_layer")
    ours = {
        **text,
        "model_type": text.get("model_type", _DEFAULT_TEXT.get(kind, "llama")),
        "mm_vision_tower": OWN_TOWER,
        "use_mm_proj": True,
        "mm_hidden_size": num_layers_joined(layer) * vision["hidden_size"],
        "mm_projector_type": "norm_mlp2x_gelu" if kind == "vipllava" else "mlp2x_gelu",
        "mm_vision_select_layer": layer,
        "mm_vision_select_feature": _select_feature(path, kind, config_json, family),
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        # The tower is part of the folder, so it is part of what is saved.
        "unfreeze_mm_vision_tower": True,
    }
    ours.pop("architectures", None)
    if config_json.get("multimodal_projector_bias") is False:
        ours["mm_projector_bias"] = False
    if "tie_word_embeddings" in config_json and "tie_word_embeddings" not in text:
        ours["tie_word_embeddings"] = config_json["tie_word_embeddings"]
    ours.update(_tiles(kind, config_json))
    if "image_aspect_ratio" not in ours and _pads(path):
        ours["image_aspect_ratio"] = "pad"
    # An export of ours carries what transformers' config has no place for: the template, the release, the projector.
    kept = source.get("config", {})
    ours.update({key: value for key, value in kept.items() if key not in ours or key in _KEYS_OF_EXPORT})
    return ours, vision


def _tiles(kind: str, config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a model that cuts images into tiles."""
    if kind not in ("llava_next", "llava_onevision"):
        return {}
    grid, mode = config_json.get("image_grid_pinpoints") or _NEXT_GRID, "anyres"
    if kind == "llava_onevision":
        mode = str(config_json.get("vision_aspect_ratio", "anyres_max_9"))
        grid = config_json.get("image_grid_pinpoints") or [[h, w] for h in _ONEVISION_SIDES for w in _ONEVISION_SIDES]
    return {
        "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": mode,
        # transformers writes (height, width), LLaVA (width, height).
        "image_grid_pinpoints": [[width, height] for height, width in grid],
    }


def _check(path: Path, config_json: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    activation = config_json.get("projector_hidden_act", "gelu")
    if activation != "gelu" and source.get(LINEAR_FORM_KEY) != "identity":
        raise CheckpointError(f"{path}: projector_hidden_act is {activation!r}; only gelu can be read.")
    eps = config_json.get("projector_layernorm_eps", _NORM_EPS)
    if eps != _NORM_EPS:
        raise CheckpointError(f"{path}: projector_layernorm_eps is {eps!r}; only {_NORM_EPS} can be read.")
    if config_json.get("use_image_newline_parameter") is False:
        raise CheckpointError(
            f"{path}: use_image_newline_parameter is false; only models with the newline can be read."
        )


def _family(path: Path, tower_type: str) -> TowerFamily:
    family = family_of(tower_type, f"{path / 'config.json'}: vision_config")
    if not family.exportable:
        raise CheckpointError(
            f"{path / 'config.json'}: transformers' LLaVA takes other features than those of patches from a tower of "
            f"type {tower_type}, which cannot be followed. Use the tower with a model in the original's format."
        )
    return family


def _select_feature(path: Path, kind: str, config_json: Mapping[str, Any], family: TowerFamily) -> str:
    default = "full" if kind == "llava_onevision" else "default"
    # ViP-LLaVA has no such key and always drops the first feature.
    strategy = "default" if kind == "vipllava" else config_json.get("vision_feature_select_strategy", default)
    if strategy not in ("default", "full"):
        raise CheckpointError(
            f"{path / 'config.json'}: vision_feature_select_strategy is {strategy!r}; it must be default or full."
        )
    if family.num_class_tokens:
        return "patch" if strategy == "default" else "cls_patch"
    if kind == "vipllava":
        raise CheckpointError(
            f"{path / 'config.json'}: ViP-LLaVA drops the first feature of each image, but this tower, a "
            f"{family.model_class}, has no class token, so a patch would be lost. Such a model cannot be read."
        )
    if strategy == "default":
        raise CheckpointError(
            f"{path / 'config.json'}: vision_feature_select_strategy is 'default', with which transformers drops the "
            f"first feature of each image. This tower, a {family.model_class}, has no class token there, so a patch "
            "would be lost. Set it to full if the model was trained with all of its patches."
        )
    return "patch"


def _pads(path: Path) -> bool:
    """Tells whether the image processor of a folder pads images to a square."""
    if not any((path / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return False
    _, settings = processor_settings(path)
    named = str(settings.get("image_processor_type") or "")
    return named.startswith("LlavaImageProcessor") and bool(settings.get("do_pad"))
