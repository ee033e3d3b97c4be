"""Images that tests make, and their encoded bytes."""

from __future__ import annotations

import io

import numpy as np
import pillow_heif
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def heic(image: Image.Image) -> bytes:
    """The file that a phone makes of an image."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=100)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 48, channels: int = 3) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8))
