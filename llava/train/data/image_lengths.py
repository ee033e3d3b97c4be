"""Counts how many positions an image takes in the model from its header alone, without decoding it."""

from __future__ import annotations

from typing import Any

from llava.errors import DataError, ImageError
from llava.images.headers import ImageLimits, read_size
from llava.mm_utils import process_images
from llava.train.data.dataset import ImageLoader


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
            key = (size := read_size(file, limits=self._limits)), num_images > 1
            if key not in self._known:
                self._known[key] = self._positions(size, num_images)
        except ImageError as error:
            reason = str(error).removeprefix(f"{file}: ")
            raise DataError(f"{name}: cannot read image {file}: {reason}") from error
        return self._known[key]

    def _positions(self, size: tuple[int, int], num_images: int) -> int:
        from PIL import Image

        loader = self._loader
        blank: Any = process_images(
            [Image.new("RGB", size)], loader.image_processor, loader.model_config, num_images=num_images
        )[0]
        return loader.num_positions(blank)
