"""Tells how many rows and columns of features a tower makes of an image, without running it.

The objects hold no weights, so that the processes that load training data can have them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from llava.errors import ImageError
from llava.model.multimodal_encoder.feature_grid import stage_states
from llava.model.multimodal_encoder.file_names import empty_model

Grid = Callable[[int, int], tuple[int, int]]
"""(height, width) of an image in pixels -> rows and columns of its features; ImageError if it is too small for one."""


Shape = tuple[int, int, int]
"""Width of a feature, rows and columns."""


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The grid of a tower of tokens: one feature for each whole patch."""

    patch_size: int

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        if min(height, width) < self.patch_size:
            raise ImageError(
                f"an image of {width} x {height} pixels is smaller than one patch of the vision tower "
                f"({self.patch_size} pixels)."
            )
        return height // self.patch_size, width // self.patch_size


@dataclass(frozen=True, slots=True)
class StageGrid:
    """The grid of one hidden state of a tower of stages."""

    shapes: StageShapes
    state: int

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        return self.shapes(height, width)[self.state][1:]


class StageShapes:
    """The shapes of the maps of a tower of stages, from running a copy of it that has no weights."""

    def __init__(self, config: Any):
        self._config_json = config.to_json_string()

    def __call__(self, height: int, width: int) -> list[Shape]:
        """Returns the shape of each hidden state.

        Raises:
            ImageError: the image is too small.
        """
        shapes = _shapes(self._config_json, height, width)
        if not shapes:
            raise ImageError(f"an image of {width} x {height} pixels is too small for the vision tower.")
        return shapes


@lru_cache(maxsize=1024)
def _shapes(config_json: str, height: int, width: int) -> list[Shape]:
    """Returns the shape of each hidden state; none if the image is too small."""
    try:
        with torch.no_grad():
            maps = stage_states(_model(config_json), torch.empty(1, 3, height, width, device="meta"))
    except RuntimeError:  # a kernel that is larger than its map
        return []
    shapes = [(state.shape[1], state.shape[2], state.shape[3]) for state in maps]
    return [] if any(0 in shape for shape in shapes) else shapes


@lru_cache(maxsize=4)
def _model(config_json: str) -> Any:
    from transformers import AutoConfig

    settings = json.loads(config_json)
    return empty_model(AutoConfig.for_model(settings.pop("model_type"), **settings)).eval()
