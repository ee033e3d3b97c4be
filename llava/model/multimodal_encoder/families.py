"""The families of vision towers: which classes of transformers they are, and how their images are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llava.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class TowerFamily:
    """One type of tower."""

    model: str
    """transformers' class of the model."""
    processor: str
    """transformers' class of its image processor, on Pillow: its pixels equal those of 2023, and it needs no
    torchvision."""


def _clip(model: str) -> TowerFamily:
    return TowerFamily(model, "CLIPImageProcessorPil")


FAMILIES: Final = {
    "clip": _clip("CLIPVisionModel"),
    "clip_vision_model": _clip("CLIPVisionModel"),
    "siglip": TowerFamily("SiglipVisionModel", "SiglipImageProcessorPil"),
    "siglip_vision_model": TowerFamily("SiglipVisionModel", "SiglipImageProcessorPil"),
    "dinov2": TowerFamily("Dinov2Model", "BitImageProcessorPil"),
    "dinov2_with_registers": TowerFamily("Dinov2WithRegistersModel", "BitImageProcessorPil"),
    "dinov3_vit": TowerFamily("DINOv3ViTModel", "ViTImageProcessorPil"),
    "dinov3_convnext": TowerFamily("DINOv3ConvNextModel", "ViTImageProcessorPil"),
    "resnet": TowerFamily("ResNetModel", "ConvNextImageProcessorPil"),
    "regnet": TowerFamily("RegNetModel", "ConvNextImageProcessorPil"),
    "convnext": TowerFamily("ConvNextModel", "ConvNextImageProcessorPil"),
    "convnextv2": TowerFamily("ConvNextV2Model", "ConvNextImageProcessorPil"),
    "efficientnet": TowerFamily("EfficientNetModel", "EfficientNetImageProcessorPil"),
    "swin": TowerFamily("SwinModel", "ViTImageProcessorPil"),
    "swinv2": TowerFamily("Swinv2Model", "ViTImageProcessorPil"),
}
"""Value of `model_type` in a tower's config -> its family. Fixed-size checkpoints of SigLIP 2 are of type siglip."""

_NAFLEX: Final = (
    "it takes images of any size as packed patches (NaFlex). Use a checkpoint of SigLIP 2 of a fixed size, such as "
    "google/siglip2-so400m-patch14-384"
)
_REFUSED: Final = {
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
    "timm_wrapper": "transformers reads it only with the package timm, which needs torchvision",
}


def family_of(kind: str | None, where: object) -> TowerFamily:
    """Returns the family of a tower.

    Args:
        kind: its `model_type`.
        where: the folder or key that names it, for messages.

    Raises:
        CheckpointError: a model that cannot be the tower.
    """
    if kind in _REFUSED:
        raise CheckpointError(f"{where}: a model of type {kind!r} cannot be the vision tower: {_REFUSED[kind]}.")
    if kind not in FAMILIES:
        raise CheckpointError(
            f"{where}: a model of type {kind!r} cannot be the vision tower. Known: {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[kind]


LLAVA_PROCESSORS: Final = frozenset(("LlavaImageProcessor", "LlavaNextImageProcessor", "LlavaOnevisionImageProcessor"))
"""Image processors of transformers' LLaVAs. They are the tower's own, with steps that this package does itself."""
