"""A frozen (by default) image encoder: pixels in, one feature for each cell of a grid out, whatever the model.

The feature of an image is `hidden_states[mm_vision_select_layer]` of the tower, before any final norm, with or without
the class token (LLaVA, Liu et al. 2023, section 4.1); of several layers, their features joined along the width
(ViP-LLaVA, Cai et al. 2024). Of a tower of stages it is the map of the selected stage. Layers above the selected ones
cannot influence it and do not run.

All that depends on the tower elsewhere (counts of features, the grid of tiles, the projector's width) is asked here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llava.errors import CheckpointError, ImageError
from llava.mm_utils import processed_edge
from llava.model.multimodal_encoder.families import (
    FAMILIES,
    SelectLayer,
    check_select_feature,
    num_prefix_tokens,
    read_select_layer,
)
from llava.model.multimodal_encoder.feature_grid import drop_prefix, find_layers, stage_states, token_states
from llava.model.multimodal_encoder.file_names import TowerNames, empty_model, tower_names
from llava.model.multimodal_encoder.grid_shape import Grid, PatchGrid, StageGrid, StageShapes


class VisionTower(nn.Module):
    """Runs a vision model up to the selected layer.

    Args:
        vision_tower: the transformers model; its config decides how it runs.
        image_processor: turns images into the pixels that this tower was trained on.
        select_layer: index into the tower's hidden states, or a list of them; negative counts from the end, -2 is the
            one before the last.
        select_feature: "patch" drops the class and register tokens, "cls_patch" keeps the class token.

    Raises:
        CheckpointError: a layer or a class token that the tower does not have, or an unknown `select_feature`.
    """

    def __init__(
        self,
        vision_tower: nn.Module,
        image_processor: Any,
        *,
        select_layer: SelectLayer | str = -2,
        select_feature: str = "patch",
    ):
        super().__init__()
        self.vision_tower: Any = vision_tower  # its attributes differ by kind of tower
        self.image_processor = image_processor
        self.family = FAMILIES[self.config.model_type]
        check_select_feature(select_feature, self.family)
        self.select_feature = select_feature
        self.select_layer = read_select_layer(select_layer)
        # Layers above the selected ones stay outside the loop, so that a tower that was trained can be saved whole.
        self.unused_layers = nn.ModuleList()
        if self.family.features == "stages":
            self._stages = StageShapes(self.config)
            shapes = self._stages(self.image_size, self.image_size)
            self._states = self._selected(len(shapes))
            self._refuse_different_grids({shapes[state][1:] for state in self._states})
            self.grid: Grid = StageGrid(self._stages, self._states[0])
            return
        self.grid = PatchGrid(self.config.patch_size)
        owner, self._layers_path, self._layers_name = find_layers(vision_tower)
        layers: nn.ModuleList = getattr(owner, self._layers_name)
        self._states = self._selected(len(layers) + 1)
        self.num_layers_run = max(self._states)
        self.unused_layers.extend(layers[self.num_layers_run :])
        setattr(owner, self._layers_name, layers[: self.num_layers_run])

    def _selected(self, num_states: int) -> list[int]:
        """Returns the numbers of the selected hidden states, counted from the first."""
        chosen = self.select_layer if isinstance(self.select_layer, list) else [self.select_layer]
        for layer in chosen:
            if not -num_states <= layer < num_states:
                what = "stages and a stem" if self.family.features == "stages" else "layers"
                raise CheckpointError(
                    f"mm_vision_select_layer is {layer}, but the vision tower has {num_states - 1} {what} "
                    f"(allowed: {-num_states} to {num_states - 1})."
                )
        return [layer % num_states for layer in chosen]

    def _refuse_different_grids(self, grids: set[tuple[int, int]]) -> None:
        if len(grids) > 1:
            listed = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(grids))
            raise CheckpointError(
                f"mm_vision_select_layer is {self.select_layer}, but these stages of the vision tower have different "
                f"grids ({listed}), whose features cannot be joined. Select stages of one grid."
            )

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
        """Width of a feature, which is the sum over the selected layers."""
        if self.family.features == "stages":
            shapes = self._stages(self.image_size, self.image_size)
            return sum(shapes[state][0] for state in self._states)
        return int(self.config.hidden_size) * len(self._states)

    @property
    def image_size(self) -> int:
        """Side in pixels of the square that the image processor makes, which is also that of a tile."""
        return processed_edge(self.image_processor)

    @property
    def num_prefix_tokens(self) -> int:
        """Number of class and register tokens before the patches."""
        return num_prefix_tokens(self.config)

    @property
    def keeps_class_token(self) -> bool:
        """Whether a feature without a place in the image comes first."""
        return self.select_feature == "cls_patch"

    @property
    def num_patches(self) -> int:
        """Number of features of an image of the tower's own size."""
        return self.num_features(self.image_size, self.image_size)

    def num_features(self, height: int, width: int) -> int:
        """Returns the number of features of an image of the given size in pixels.

        Raises:
            ImageError: the image is too small for one feature.
        """
        rows, columns = self.grid(height, width)
        return rows * columns + int(self.keeps_class_token)

    @cached_property
    def _names(self) -> TowerNames:
        return tower_names(self.config)

    def original_name(self, name: str) -> str:
        """Returns the name that checkpoints have for a tensor of this tower, the same in all releases of transformers:
        `vision_tower.vision_model.*` for CLIP and SigLIP, with the layers numbered in one sequence."""
        if name.startswith("unused_layers."):
            number, rest = name.removeprefix("unused_layers.").split(".", 1)
            name = f"{self._layer_prefix}{int(number) + self.num_layers_run}.{rest}"
        inner = name.removeprefix("vision_tower.")
        return f"vision_tower.{self._names.in_files.get(inner, inner)}"

    def own_name(self, name: str) -> str:
        """Returns the name that this module has for a tensor of a checkpoint, in any spelling that files have; its own
        names stay as they are."""
        if name.startswith("unused_layers."):
            return name
        inner = name.removeprefix("vision_tower.")
        name = f"vision_tower.{self._names.in_module.get(inner, inner)}"
        if self.family.features == "tokens" and name.startswith(self._layer_prefix):
            number, rest = name.removeprefix(self._layer_prefix).split(".", 1)
            if int(number) >= self.num_layers_run:
                return f"unused_layers.{int(number) - self.num_layers_run}.{rest}"
        return name

    @property
    def _layer_prefix(self) -> str:
        return f"vision_tower.{self._layers_path}{self._layers_name}."

    def unused_parameters(self) -> set[str]:
        """Returns the names of the parameters that cannot influence any feature: the layers above the selected one,
        what follows the encoder, and what only pretraining needs."""
        twin = VisionTower(
            empty_model(copy.deepcopy(self.config)),
            self.image_processor,
            select_layer=self.select_layer,
            select_feature=self.select_feature,
        ).eval()
        names, parameters = zip(*twin.named_parameters(), strict=True)
        with torch.enable_grad():
            features = twin(torch.empty(1, 3, self.image_size, self.image_size, device="meta"))
        gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        return {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}

    def needed(self, missing: Iterable[str]) -> list[str]:
        """Returns, in order and as `original_name` has them, those of the given tensors without which features are
        wrong. Releases leave out others, such as the final norm.

        Args:
            missing: names in any spelling.
        """
        own = {self.own_name(name) for name in missing}
        unused = self.unused_parameters() if own else set()
        return sorted(self.original_name(name) for name in own - unused)

    def describe(self, folder: Path) -> None:
        """Writes everything needed to build this tower except its weights: its config and its image processor."""
        self.config.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def train(self, mode: bool = True) -> VisionTower:
        """As for any module, but batch norms keep the statistics of pretraining: batches here have few images."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes a batch of equally large images.

        Args:
            pixels: [images, 3, height, width], any float dtype and device.

        Returns:
            Features [images, rows * columns, hidden] in reading order, in the dtype of the tower; with "cls_patch" that
            of the class token comes first.

        Raises:
            ImageError: not a batch of RGB images, or too small for one feature.
        """
        if pixels.dim() != 4 or pixels.shape[1] != 3:
            raise ImageError(f"expected pixels of shape [images, 3, height, width], got {list(pixels.shape)}.")
        self.grid(*pixels.shape[2:])  # an image that is too small is refused with its size
        pixels = pixels.to(device=self.device, dtype=self.dtype)
        if self.family.features == "stages":
            maps = stage_states(self.vision_tower, pixels)
            features = [maps[state].flatten(2).transpose(1, 2) for state in self._states]
        else:
            layers = self.vision_tower.get_submodule(self._layers_path + self._layers_name)
            states = token_states(self.vision_tower, layers, pixels, set(self._states))
            features = [
                drop_prefix(states[state], self.num_prefix_tokens, keeps_class_token=self.keeps_class_token)
                for state in self._states
            ]
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)
