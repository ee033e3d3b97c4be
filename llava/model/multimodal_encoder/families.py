"""The families of vision towers: what a model of each type is called, how its features lie, and who can read it.

A tower of tokens (CLIP, SigLIP, DINO, ViT) gives one feature for each patch of the image, after a class token or
registers if it has them, with the same width in each layer. A tower of stages (ResNet, ConvNeXt, EfficientNet, Swin)
gives maps of features, smaller and wider from stage to stage.

Nothing here imports PyTorch or transformers.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from llava.errors import CheckpointError

SelectLayer = int | list[int]
"""Index of the hidden state that is the feature, or several whose features are joined along the width."""
SELECT_FEATURES: Final = ("patch", "cls_patch")


@dataclass(frozen=True, slots=True)
class TowerFamily:
    """What the vision towers of one `model_type` have in common."""

    model_class: str
    """Class of transformers."""
    image_processor: str
    """Class of transformers' image processor for folders that do not name one, without `Pil`."""
    features: Literal["tokens", "stages"] = "tokens"
    num_class_tokens: int = 0
    """Number of features before the patches; registers, which the config counts, come on top."""
    prefix_in_files: str = ""
    """What the names of its tensors begin with in files that all releases of transformers read."""
    exportable: bool = False
    """Whether transformers' LLaVA computes the same features with it."""


_VISION_MODEL: Final = "vision_model."
FAMILIES: Final[Mapping[str, TowerFamily]] = {
    "clip_vision_model": TowerFamily(
        "CLIPVisionModel", "CLIPImageProcessor", num_class_tokens=1, prefix_in_files=_VISION_MODEL, exportable=True
    ),
    "siglip_vision_model": TowerFamily(
        "SiglipVisionModel", "SiglipImageProcessor", prefix_in_files=_VISION_MODEL, exportable=True
    ),
    # Its embeddings take patches and their grid, which transformers' LLaVA does not pass.
    "siglip2_vision_model": TowerFamily("Siglip2VisionModel", "Siglip2ImageProcessor", prefix_in_files=_VISION_MODEL),
    "dinov2": TowerFamily("Dinov2Model", "BitImageProcessor", num_class_tokens=1, exportable=True),
    # transformers' LLaVA drops the class token and takes the registers for patches.
    "dinov2_with_registers": TowerFamily("Dinov2WithRegistersModel", "BitImageProcessor", num_class_tokens=1),
    "dinov3_vit": TowerFamily("DINOv3ViTModel", "DINOv3ViTImageProcessor", num_class_tokens=1),
    "vit": TowerFamily("ViTModel", "ViTImageProcessor", num_class_tokens=1, exportable=True),
    # The class token and the one for distillation; transformers' LLaVA drops one.
    "deit": TowerFamily("DeiTModel", "DeiTImageProcessor", num_class_tokens=2),
    "resnet": TowerFamily("ResNetModel", "ConvNextImageProcessor", "stages"),
    "regnet": TowerFamily("RegNetModel", "ConvNextImageProcessor", "stages"),
    "convnext": TowerFamily("ConvNextModel", "ConvNextImageProcessor", "stages"),
    "convnextv2": TowerFamily("ConvNextV2Model", "ConvNextImageProcessor", "stages"),
    "dinov3_convnext": TowerFamily("DINOv3ConvNextModel", "DINOv3ViTImageProcessor", "stages"),
    "efficientnet": TowerFamily("EfficientNetModel", "EfficientNetImageProcessor", "stages"),
    "swin": TowerFamily("SwinModel", "ViTImageProcessor", "stages"),
    "swinv2": TowerFamily("Swinv2Model", "ViTImageProcessor", "stages"),
}
"""`model_type` of a tower's config -> its family."""
_WHOLE_MODELS: Final = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}
"""Types of models of images and texts -> the type of the part that sees."""


def vision_type(model_type: str) -> str:
    """Returns the type of a model's vision part, which for a tower is its own."""
    return _WHOLE_MODELS.get(model_type, model_type)


def family_of(model_type: str | None, where: object) -> TowerFamily:
    """Returns the family of a tower by the `model_type` of its config.

    Args:
        where: the folder or file that names the type, for the message.

    Raises:
        CheckpointError: no known family.
    """
    family = FAMILIES.get(vision_type(str(model_type)))
    if family is not None:
        return family
    if model_type in ("timm_wrapper", "timm_backbone"):
        raise CheckpointError(
            f"{where}: is a model of the library timm, which needs torchvision and cannot be the vision tower. Use "
            "transformers' own model of the same network (resnet, convnext, efficientnet, swin, vit ...)."
        )
    known = ", ".join(sorted({*FAMILIES, *_WHOLE_MODELS}))
    raise CheckpointError(f"{where}: a model of type {model_type!r} cannot be the vision tower. Known: {known}.")


def num_prefix_tokens(config: Any) -> int:
    """Returns the number of features before the patches, which are class tokens and registers.

    Args:
        config: a tower's config of transformers, or its content.
    """
    read = config.get if isinstance(config, Mapping) else lambda key, default=None: getattr(config, key, default)
    kind = vision_type(str(read("model_type")))
    # The configs that have registers have four unless they say otherwise.
    registers = read("num_register_tokens", 4) if kind in ("dinov2_with_registers", "dinov3_vit") else 0
    return FAMILIES[kind].num_class_tokens + int(registers)


def check_select_feature(select_feature: str, family: TowerFamily) -> None:
    """Checks which features of a tower a config selects.

    Raises:
        CheckpointError: an unknown value, or a class token that the tower does not have.
    """
    if select_feature not in SELECT_FEATURES:
        raise CheckpointError(
            f"mm_vision_select_feature is {select_feature!r}; it must be one of {', '.join(SELECT_FEATURES)}."
        )
    if select_feature == "cls_patch" and not family.num_class_tokens:
        raise CheckpointError(
            f"mm_vision_select_feature is cls_patch, but a {family.model_class} has no class token. Set it to patch."
        )


def read_select_layer(value: Any, where: object = "mm_vision_select_layer") -> SelectLayer:
    """Reads the layer that a config or a flag selects: -2, "-2", [-2, -5], "[-2, -5]" or "-2,-5".

    Args:
        where: what the value is, for the message.

    Raises:
        CheckpointError: anything else.
    """
    read = value
    if isinstance(value, str):
        try:
            read = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            read = None
    layers = list(read) if isinstance(read, (list, tuple)) else [read]
    if not layers or any(type(layer) is not int for layer in layers):
        raise CheckpointError(f"{where} is {value!r}; it must be a layer such as -2, or a list such as [-2, -5].")
    return layers if isinstance(read, (list, tuple)) else layers[0]


def num_layers_joined(select_layer: SelectLayer) -> int:
    """Returns the number of layers whose features are joined."""
    return len(select_layer) if isinstance(select_layer, list) else 1
