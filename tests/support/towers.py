"""Small random vision towers of every family, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from llava.model.multimodal_encoder.families import FAMILIES
from tests.support.checkpoints import randomise

SIDE = 64
_STACK = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
_STACK |= {"image_size": SIDE, "patch_size": 16}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}

SETTINGS: dict[str, dict[str, Any]] = {
    "clip_vision_model": _STACK,
    "siglip_vision_model": _STACK,
    "dinov2": _STACK,
    "dinov2_with_registers": {**_STACK, "num_register_tokens": 4},
    "dinov3_vit": {**_STACK, "num_register_tokens": 4},
    "dinov3_convnext": _STAGES,
    "resnet": {"embedding_size": 8, "layer_type": "basic", **_STAGES},
    "regnet": {"embedding_size": 8, "groups_width": 8, **_STAGES},
    "convnext": _STAGES,
    "convnextv2": _STAGES,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "image_size": SIDE, "hidden_dim": 320},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "image_size": SIDE},
    "swinv2": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "image_size": SIDE},
}
TRANSFORMERS = tuple(kind for kind in SETTINGS if kind.startswith(("clip", "siglip", "dinov2")))
"""Towers that are stacks of equal layers."""


def write_tower(folder: Path, kind: str) -> Any:
    """Writes a tower and its image processor; returns transformers' model."""
    family = FAMILIES[kind]
    config_class = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    torch.manual_seed(0)
    model = getattr(transformers, family.model)(config_class(**SETTINGS[kind])).eval()
    if kind in TRANSFORMERS:
        randomise(model)
    model.save_pretrained(folder)
    crops = family.processor in ("CLIPImageProcessorPil", "BitImageProcessorPil")
    size = {"shortest_edge": SIDE} if crops or "ConvNext" in family.processor else {"height": SIDE, "width": SIDE}
    more = {"crop_size": {"height": SIDE, "width": SIDE}} if crops else {}
    getattr(transformers, family.processor)(size=size, **more).save_pretrained(folder)
    return model
