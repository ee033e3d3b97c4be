"""The image processor of DINOv3, which resizes after rescaling; transformers has it for torchvision only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers import ViTImageProcessorPil
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter -> PyTorch's name."""


class DINOv3ViTImageProcessorPil(ViTImageProcessorPil):
    """Rescales, resizes in float32 with antialiasing, and normalises, as torchvision does."""

    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_convert_rgb = True

    def resize(
        self, image: np.ndarray, size: Any, resample: Any = None, reducing_gap: int | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Resizes [3, height, width] to `size.height` by `size.width`, or the shorter side to `size.shortest_edge`."""
        height, width = size.height, size.width
        if size.shortest_edge:
            scale = size.shortest_edge / min(image.shape[1:])
            height, width = (int(side * scale) for side in image.shape[1:])
        mode = _MODES.get(int(resample if resample is not None else 2), "bilinear")
        pixels = torch.as_tensor(np.ascontiguousarray(image), dtype=torch.float32)[None]
        options = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
        resized: np.ndarray = interpolate(pixels, (height, width), mode=mode, **options)[0].numpy()
        return resized

    def _preprocess(  # type: ignore[override]  # the other settings are passed on by keyword
        self, images: list[np.ndarray], *, do_resize: bool, do_rescale: bool, **kwargs: Any
    ) -> Any:
        if do_rescale:
            images = [self.rescale(image, kwargs["rescale_factor"]) for image in images]
        return super()._preprocess(images, do_resize=do_resize, do_rescale=False, **kwargs)
