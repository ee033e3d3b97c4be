"""Counts how many positions an image takes in the model from its header alone, without decoding it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from llava.errors import DataError, ImageError
from llava.images.formats import IMAGE_FORMATS, decoder_errors
from llava.images.loading import ImageLimits
from llava.mm_utils import process_images
from llava.train.data.dataset import ImageLoader

_ORIENTATION_TAG = 0x0112
_LYING = range(5, 9)
"""Orientations of images that are stored on their side."""


class ImageLengths:
    """The lengths of images; those of one size are computed once."""

    def __init__(self, loader: ImageLoader) -> None:
        """
        Args:
            loader: the loader whose images are counted.
        """
        self._loader = loader
        self._limits = ImageLimits()
        self._known: dict[tuple[tuple[int, int], bool], int] = {}

    def __call__(self, name: str, path: str, num_images: int = 1) -> int:
        """Returns the number of positions of an image.

        Args:
            name: name of the record in error messages.
            path: path of the image, relative to the loader's folder.
            num_images: number of images of the record.

        Raises:
            DataError: the file is missing, its header cannot be read, or the tower cannot take an image of its size;
                the message names record, file and reason. Damage behind the header is not noticed.
        """
        file = self._loader.folder / path
        try:
            key = (size := self._upright_size(file)), num_images > 1
            if key not in self._known:
                self._known[key] = self._positions(size, num_images)
        except ImageError as error:
            raise DataError(f"{name}: cannot read image {file}: {error}") from error
        return self._known[key]

    def _positions(self, size: tuple[int, int], num_images: int) -> int:
        from PIL import Image

        loader = self._loader
        blank: Any = process_images(
            [Image.new("RGB", size)], loader.image_processor, loader.model_config, num_images=num_images
        )[0]
        return loader.num_positions(blank)

    def _upright_size(self, file: Path) -> tuple[int, int]:
        try:
            # Opening a pipe or a device would wait for its other end.
            if not file.is_file():
                raise ImageError("no such file, or not a regular one.")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with _opened(file) as image:
                    width, height = image.size
                    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        except decoder_errors() as error:
            raise ImageError(f"its header cannot be read ({str(error).replace(str(file), 'file')}).") from error
        if min(width, height) < 1 or width * height > self._limits.max_pixels:
            megapixels = self._limits.max_pixels / 1e6
            raise ImageError(f"{width} x {height} pixels, the limit is {megapixels:.1f} megapixels. Resize the image.")
        return (height, width) if orientation in _LYING else (width, height)


def _opened(file: Path) -> Any:
    """Opens an image to read its header. Pillow reads only that much of a file; formats that it has no plugin for are
    read whole."""
    from PIL import Image

    with file.open("rb") as handle:
        head = handle.read(64)
    own = next((each for each in IMAGE_FORMATS if each.magic.match(head) and each.plugin.startswith(".")), None)
    return Image.open(file) if own is None else own.open(file.read_bytes())
