"""A frozen (by default) image encoder: any transformers vision model that returns a grid of patch features.

The feature of an image is `hidden_states[mm_vision_select_layer]` of the tower, before any final norm, with or without
the class token (LLaVA, Liu et al. 2023, section 4.1). Layers above the selected one cannot influence it and do not
run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor, nn

from llava.errors import CheckpointError, ImageError

SELECT_FEATURES = ("patch", "cls_patch")


Layer = Union[int, "list[int]"]
"""The layer whose states are the features, or several, whose states are joined."""


class VisionTower(nn.Module):
    """Runs a vision transformer (CLIP, SigLIP, DINOv2) up to the selected layer.

    `llava.model.multimodal_encoder.grid_tower` has the towers that are no stack of equal layers.

    Args:
        vision_tower: the transformers model; its config decides how it runs.
        image_processor: turns images into the pixels that this tower was trained on.
        select_layer: index into the tower's hidden states; negative counts from the end, -2 is the one before the last.
            The states of several are joined along their width (ViP-LLaVA, Cai et al. 2024).
        select_feature: "patch" drops the class and register tokens, "cls_patch" keeps the class token.

    Raises:
        CheckpointError: a layer that the tower does not have, or an unknown `select_feature`.
    """

    def __init__(
        self, vision_tower: nn.Module, image_processor: Any, *, select_layer: Layer = -2, select_feature: str = "patch"
    ):
        super().__init__()
        if select_feature not in SELECT_FEATURES:
            raise CheckpointError(
                f"mm_vision_select_feature is {select_feature!r}; it must be one of {', '.join(SELECT_FEATURES)}."
            )
        self.vision_tower: Any = vision_tower  # its attributes differ by kind of tower
        self.image_processor = image_processor
        self.select_layer = select_layer
        self.select_feature = select_feature
        layers = _layers(vision_tower)
        self.states = state_numbers(select_layer, len(layers) + 1, f"{len(layers)} layers")
        self.num_layers_run = max(self.states)
        # They stay outside the encoder's loop, so that a tower that was trained can still be saved whole.
        self.unused_layers = layers[self.num_layers_run :]
        _set_layers(vision_tower, layers[: self.num_layers_run])

    @property
    def config(self) -> Any:
        return self.vision_tower.config

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vision_tower.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.vision_tower.parameters()).device

    @property
    def hidden_size(self) -> int:
        """Width of a feature."""
        return self.config.hidden_size * len(self.states)

    @property
    def image_size(self) -> int:
        """Side of the square images that the tower was trained on, in pixels."""
        return self.config.image_size

    @property
    def patch_size(self) -> int:
        """Side of the square of pixels that a feature stands for."""
        return self.config.patch_size

    @property
    def num_patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Number of class and register tokens before the patches."""
        embeddings = self.vision_tower.embeddings
        has_class_token = hasattr(embeddings, "class_embedding") or hasattr(embeddings, "cls_token")
        return int(has_class_token) + getattr(self.config, "num_register_tokens", 0)

    @property
    def num_patches(self) -> int:
        """Number of features of an image of the tower's own size."""
        return self.num_features(self.image_size, self.image_size)

    def num_features(self, height: int, width: int) -> int:
        """Returns the number of features of an image of the given size in pixels."""
        patch = self.config.patch_size
        keeps_class_token = self.select_feature == "cls_patch" and self.num_prefix_tokens > 0
        return (height // patch) * (width // patch) + int(keeps_class_token)

    def original_name(self, name: str) -> str:
        """Returns the name that the original's checkpoints have for a parameter of this tower:
        `vision_tower.vision_model.*`, with the layers numbered in one sequence."""
        if name.startswith("unused_layers."):
            number, rest = name.removeprefix("unused_layers.").split(".", 1)
            name = f"{self._layer_prefix}{int(number) + self.num_layers_run}.{rest}"
        if self.config.model_type in _VISION_MODEL_PREFIX and not name.startswith("vision_tower.vision_model."):
            name = f"vision_tower.vision_model.{name.removeprefix('vision_tower.')}"
        return name

    def own_name(self, name: str) -> str:
        """Returns the name that this module has for a tensor of a checkpoint, with or without `vision_model.`."""
        name = name.replace("vision_tower.vision_model.", "vision_tower.", 1)
        if name.startswith(self._layer_prefix):
            number, rest = name.removeprefix(self._layer_prefix).split(".", 1)
            if int(number) >= self.num_layers_run:
                return f"unused_layers.{int(number) - self.num_layers_run}.{rest}"
        return name

    @property
    def _layer_prefix(self) -> str:
        attribute = "layers" if hasattr(self.vision_tower.encoder, "layers") else "layer"
        return f"vision_tower.encoder.{attribute}."

    def unused_parameters(self) -> set[str]:
        """Returns the names of the parameters that cannot influence any feature: the layers above the selected one, and
        what follows the encoder."""
        used = ("vision_tower.embeddings.", "vision_tower.pre_layrnorm.", "vision_tower.encoder.")
        return {name for name, _ in self.named_parameters() if not name.startswith(used)}

    def describe(self, folder: Path) -> None:
        """Writes everything needed to build this tower except its weights: its config and its image processor."""
        self.config.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes a batch of equally large images.

        Args:
            pixels: [images, 3, height, width], any float dtype and device.

        Returns:
            Features [images, patches, hidden], in the dtype of the tower.

        Raises:
            ImageError: not a batch of RGB images, or smaller than one patch.
        """
        if pixels.dim() != 4 or pixels.shape[1] != 3:
            raise ImageError(f"expected pixels of shape [images, 3, height, width], got {list(pixels.shape)}.")
        if min(pixels.shape[2:]) < self.config.patch_size:
            raise ImageError(
                f"an image of {pixels.shape[3]} x {pixels.shape[2]} pixels is smaller than one patch "
                f"({self.config.patch_size} pixels)."
            )
        hidden = self._encode(self._embed(pixels.to(device=self.device, dtype=self.dtype)))
        if self.select_feature == "patch":
            return hidden[:, self.num_prefix_tokens :]
        # Registers carry no image position; only the class token is a feature.
        return torch.cat([hidden[:, : min(1, self.num_prefix_tokens)], hidden[:, self.num_prefix_tokens :]], dim=1)

    def _encode(self, embedded: Tensor) -> Tensor:
        """Runs the layers; returns the selected states, joined along their width."""
        if self.states == [self.num_layers_run]:
            return self.vision_tower.encoder(embedded).last_hidden_state
        states = {0: embedded}
        hooks = [
            layer.register_forward_hook(_keeper(states, number))
            for number, layer in enumerate(_layers(self.vision_tower), 1)
            if number in self.states
        ]
        try:
            self.vision_tower.encoder(embedded)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([states[number] for number in self.states], dim=-1)

    def _embed(self, pixels: Tensor) -> Tensor:
        own_size = tuple(pixels.shape[2:]) == (self.config.image_size, self.config.image_size)
        # DINOv2 resamples its position embeddings whenever the size requires it; the others need a flag.
        options = {} if own_size or "dinov2" in self.config.model_type else {"interpolate_pos_encoding": True}
        hidden = self.vision_tower.embeddings(pixels, **options)
        norm = getattr(self.vision_tower, "pre_layrnorm", None)
        return hidden if norm is None else norm(hidden)


def state_numbers(select_layer: Layer, num_states: int, what: str) -> list[int]:
    """Returns the positions of the selected states, counted from the first.

    Args:
        num_states: number of states that the tower has.
        what: what the tower has, in words, for the message.

    Raises:
        CheckpointError: a state that the tower does not have, or none.
    """
    layers = select_layer if isinstance(select_layer, list) else [select_layer]
    numbers = [layer if layer >= 0 else num_states + layer for layer in layers]
    if not numbers or not all(0 <= number < num_states for number in numbers):
        raise CheckpointError(
            f"mm_vision_select_layer is {select_layer}, but the vision tower has {what} "
            f"(allowed: {-num_states} to {num_states - 1})."
        )
    return numbers


def _keeper(states: dict[int, Tensor], number: int) -> Any:
    def keep(layer: nn.Module, arguments: Any, output: Any) -> None:
        states[number] = output[0] if isinstance(output, tuple) else output

    return keep


def _layers(vision_tower: Any) -> nn.ModuleList:
    encoder = vision_tower.encoder
    return encoder.layers if hasattr(encoder, "layers") else encoder.layer


def _set_layers(vision_tower: Any, layers: nn.ModuleList) -> None:
    encoder = vision_tower.encoder
    setattr(encoder, "layers" if hasattr(encoder, "layers") else "layer", layers)


# Models whose tensors carried the prefix `vision_model.` when LLaVA's checkpoints were written.
_VISION_MODEL_PREFIX = ("clip_vision_model", "siglip_vision_model")
