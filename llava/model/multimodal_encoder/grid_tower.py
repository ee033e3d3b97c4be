"""Vision towers whose states are grids of features: convolutional networks, Swin, and DINOv3.

One interface serves them all: pixels in, [rows x columns, width] features out. `mm_vision_select_layer` counts the
states that the model of transformers returns (`hidden_states`): of a convolutional network its stages, the embedding
first; of Swin the same; of DINOv3 its layers. There is no class token among the features of a grid, so `cls_patch` is
refused.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from llava.errors import CheckpointError, ImageError
from llava.model.multimodal_encoder.vision_tower import Layer, VisionTower, state_numbers

GRID_TOWERS: Final = frozenset(
    (
        *("resnet", "regnet", "convnext", "convnextv2", "efficientnet", "swin", "swinv2"),
        *("dinov3_vit", "dinov3_convnext"),
    )
)
"""Types of towers that run whole and give all of their states."""


class GridTower(VisionTower):
    """Runs a vision model whole and takes its selected states as grids.

    Args and Raises: as `VisionTower`; `select_feature` must be "patch".
    """

    def __init__(
        self, vision_tower: nn.Module, image_processor: Any, *, select_layer: Layer = -2, select_feature: str = "patch"
    ):
        nn.Module.__init__(self)
        if select_feature != "patch":
            raise CheckpointError(
                f"mm_vision_select_feature is {select_feature!r}, but the features of this kind of vision tower have "
                "no class token among them. Set it to patch."
            )
        self.vision_tower: Any = vision_tower.eval()  # batch norms must not count the image below
        self.image_processor = image_processor
        self.select_layer = select_layer
        self.select_feature = select_feature
        self._side = _side(image_processor, self.config)
        with torch.no_grad():
            blank = torch.zeros(1, 3, self._side, self._side, dtype=self.dtype, device=self.device)
            shapes = [grid.shape for grid in self._grids(blank)]
        self.states = state_numbers(select_layer, len(shapes), f"{len(shapes)} states")
        chosen = [shapes[number] for number in self.states]
        if len({shape[2:] for shape in chosen}) > 1 or chosen[0][2] != chosen[0][3]:
            raise CheckpointError(
                f"mm_vision_select_layer is {select_layer}: these states have grids of different sizes "
                f"({', '.join(f'{shape[2]} x {shape[3]}' for shape in chosen)}), so they cannot be joined."
            )
        self._rows = int(chosen[0][2])
        self._width = sum(int(shape[1]) for shape in chosen)

    @property
    def hidden_size(self) -> int:
        return self._width

    @property
    def image_size(self) -> int:
        return self._side

    @property
    def patch_size(self) -> int:
        return self._side // self._rows

    @property
    def num_patches_per_side(self) -> int:
        return self._rows

    @property
    def num_prefix_tokens(self) -> int:
        return 0

    def num_features(self, height: int, width: int) -> int:
        """Returns the number of features of an image.

        Raises:
            ImageError: not the tower's own size, which these towers need.
        """
        self._check_size(height, width)
        return self._rows**2

    def original_name(self, name: str) -> str:
        return name

    def own_name(self, name: str) -> str:
        return name

    def unused_parameters(self) -> set[str]:
        """Returns the names of the parameters that cannot influence any feature."""
        pixels = torch.zeros(1, 3, self._side, self._side, device=self.device, dtype=self.dtype)
        parameters = dict(self.named_parameters())
        trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
        with torch.enable_grad():
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            total = self(pixels).float().sum()
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        for parameter in parameters.values():
            parameter.requires_grad_(any(parameter is other for other in trained))
        return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes a batch of images.

        Args:
            pixels: [images, 3, side, side], any float dtype and device.

        Returns:
            Features [images, rows x columns, width], row by row, in the dtype of the tower.

        Raises:
            ImageError: not a batch of RGB images of the tower's own size.
        """
        if pixels.dim() != 4 or pixels.shape[1] != 3:
            raise ImageError(f"expected pixels of shape [images, 3, height, width], got {list(pixels.shape)}.")
        self._check_size(*pixels.shape[2:])
        grids = self._grids(pixels.to(device=self.device, dtype=self.dtype))
        return torch.cat([grids[number] for number in self.states], dim=1).flatten(2).transpose(1, 2)

    def _check_size(self, height: int, width: int) -> None:
        if (height, width) != (self._side, self._side):
            raise ImageError(
                f"this vision tower ({self.config.model_type}) takes images of {self._side} x {self._side} pixels, not "
                f"{width} x {height}. Set image_aspect_ratio to square, pad, resize or anyres."
            )

    def _grids(self, pixels: Tensor) -> list[Tensor]:
        """Returns all states as grids [images, width, rows, columns]."""
        output = self.vision_tower(pixels, output_hidden_states=True)
        states = getattr(output, "reshaped_hidden_states", None) or output.hidden_states
        return [self._grid(state) for state in states]

    def _grid(self, state: Tensor) -> Tensor:
        if state.dim() == 4:
            return state
        # A sequence: class and register tokens first, then the patches row by row.
        num_patches = (self._side // self.config.patch_size) ** 2
        side = math.isqrt(num_patches)
        return state[:, state.shape[1] - num_patches :].transpose(1, 2).unflatten(2, (side, side))


def _side(image_processor: Any, config: Any) -> int:
    """Returns the side of the images that the processor makes.

    Raises:
        CheckpointError: they are not square.
    """
    crop = getattr(image_processor, "crop_size", None) if getattr(image_processor, "do_center_crop", False) else None
    size = crop or getattr(image_processor, "size", None) or {}
    read = size.get if isinstance(size, dict) else lambda key: getattr(size, key, None)
    height, width = (read(key) or read("shortest_edge") for key in ("height", "width"))
    if height is None:
        height = width = getattr(config, "image_size", None)
    if height is None or height != width:
        raise CheckpointError(
            f"the image processor of the {config.model_type} tower makes images of {width} x {height} pixels; towers "
            "need square ones. Set size to one number in its preprocessor_config.json."
        )
    return int(height)
