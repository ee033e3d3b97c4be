"""Small random vision towers of every family, as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llava.model.multimodal_encoder.families import FAMILIES
from tests.support.checkpoints import randomise

_LAYERS: Final = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
_MLP: Final = {**_LAYERS, "intermediate_size": 64}
_WINDOWS: Final = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1, 1],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
_STAGES: Final = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "clip_vision_model": _MLP,
    "siglip_vision_model": _MLP,
    "siglip2_vision_model": {**_MLP, "num_patches": 16},
    "dinov2": {**_LAYERS, "mlp_ratio": 2},
    "dinov2_with_registers": {**_LAYERS, "mlp_ratio": 2, "num_register_tokens": 3},
    "dinov3_vit": {**_MLP, "num_register_tokens": 3},
    "vit": _MLP,
    "deit": _MLP,
    "resnet": {**_STAGES, "embedding_size": 8, "layer_type": "basic"},
    "regnet": {**_STAGES, "embedding_size": 8, "groups_width": 8},
    "convnext": _STAGES,
    "convnextv2": _STAGES,
    "dinov3_convnext": _STAGES,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "image_size": 64, "hidden_dim": 320},
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
}
"""`model_type` -> sizes of a tower that shows each part of its family."""


def clip_names_of_release_4_37(num_layers: int) -> set[str]:
    """The names that transformers 4.37 reads a CLIP vision tower by; it takes noise for what it does not find."""
    layer = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
    layer += tuple(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out"))
    modules = {"pre_layrnorm", "post_layernorm"}
    modules |= {f"encoder.layers.{number}.{module}" for number in range(num_layers) for module in layer}
    embeddings = ("class_embedding", "patch_embedding.weight", "position_embedding.weight")
    return {f"vision_model.embeddings.{name}" for name in embeddings} | {
        f"vision_model.{module}.{kind}" for module in modules for kind in ("weight", "bias")
    }


def image_size(kind: str) -> int:
    """Side of the square that the processor of a small tower makes, in pixels."""
    return 64 if FAMILIES[kind].features == "stages" else 56


def write_tower(folder: Path, kind: str, **settings: Any) -> Any:
    """Writes a tower as transformers does; returns transformers' own model."""
    torch.manual_seed(3)
    model = getattr(transformers, FAMILIES[kind].model_class)(CONFIG_MAPPING[kind](**{**SETTINGS[kind], **settings}))
    if FAMILIES[kind].features == "tokens":
        randomise(model, seed=7)
    else:
        _spread(model)
    model.eval().save_pretrained(folder)
    side = image_size(kind)
    square = {"height": side, "width": side}
    size: dict[str, int] = {"shortest_edge": side} if "ConvNext" in FAMILIES[kind].image_processor else square
    processor = {"image_processor_type": FAMILIES[kind].image_processor, "size": size, "crop_size": square}
    if kind == "siglip2_vision_model":
        processor = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 14, "max_num_patches": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def _spread(model: torch.nn.Module) -> None:
    """Gives batch norms statistics and scales that show, and keeps maps from vanishing on their way."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in model.parameters():
            scale = (2 / max(1, parameter[0].numel())) ** 0.5 if parameter.dim() > 1 else 0.1
            offset = 1.0 if parameter.dim() == 1 else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + offset)
