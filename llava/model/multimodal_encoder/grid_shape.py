"""Tells how many rows and columns of features a tower makes of an image, without running it.

The objects hold no weights, so that the processes that load training data can have them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from llava.errors import ImageError
from llava.model.multimodal_encoder.feature_grid import stage_states
from llava.model.multimodal_encoder.file_names import empty_model

Grid = Callable[[int, int], tuple[int, int]]
"""(height, width) of an image in pixels -> rows and columns of its features; ImageError if it is too small for one."""


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


class StageShapes:
    """The shapes of the maps of a tower of stages, from running a copy of it that has no weights."""

    def __init__(self, config: Any):
        self._config = copy.deepcopy(config)
        self._known: dict[tuple[int, int], list[tuple[int, int, int]]] = {}

    @cached_property
    def _model(self) -> Any:
        return empty_model(self._config).eval()

    def __getstate__(self) -> dict[str, Any]:
        # A model of transformers that has run once cannot be pickled; another process builds its own.
        return {"_config": self._config, "_known": self._known}

    def __call__(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Returns (width of a feature, rows, columns) of each hidden state.

        Raises:
            ImageError: the image is too small.
        """
        if (height, width) not in self._known:
            self._known[height, width] = self._run(height, width)
        return self._known[height, width]

    def _run(self, height: int, width: int) -> list[tuple[int, int, int]]:
        problem = f"an image of {width} x {height} pixels is too small for the vision tower."
        try:
            with torch.no_grad():
                maps = stage_states(self._model, torch.empty(1, 3, height, width, device="meta"))
        except RuntimeError as error:
            raise ImageError(problem) from error
        if any(0 in state.shape for state in maps):
            raise ImageError(problem)
        return [(state.shape[1], state.shape[2], state.shape[3]) for state in maps]


@dataclass(frozen=True, slots=True)
class StageGrid:
    """The grid of one hidden state of a tower of stages."""

    shapes: StageShapes
    state: int

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        return self.shapes(height, width)[self.state][1:]
