"""Holds the images of a conversation: checked once, small enough to send, in the shape that the user chose."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from llava.images.headers import portable_type
from llava.images.loading import decode_image, read_encoded

if TYPE_CHECKING:
    from PIL import Image

ImageShape = Literal["Crop", "Resize", "Pad"]
SHAPES: Final[tuple[ImageShape, ...]] = get_args(ImageShape)
"""What to do with an image that is not square, by the original's names: leave it to the model (most crop it to the
centre), squeeze it, or pad it."""

MAX_BYTES: Final = 900_000
"""Largest image that is sent. 16 of them, in base64, stay below the 20 MB limit of a request."""
_PAD_COLOUR: Final = (122, 116, 104)
"""The mean colour of CLIP's training images; its normalisation turns this colour into zeros."""
_REDUCTIONS: Final = ((2048, 90), (2048, 80), (1344, 85), (1344, 70), (1024, 60), (768, 50))
"""Longest side and JPEG quality, tried in this order. No LLaVA uses more than 1344 pixels a side."""
_MAX_PNG_PIXELS: Final = 4_000_000
"""A larger image is seldom small enough as PNG, and encoding it to find out takes seconds."""


@dataclass(frozen=True)  # no slots: caches hold weak references to images
class ChatImage:
    """One image of a conversation."""

    data: bytes
    """The encoded image."""
    media_type: str
    """Its media type, such as image/jpeg."""
    name: str
    """The file's name, for lists and messages; may be empty."""

    def as_data_uri(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"

    def decode(self) -> Image.Image:
        """Returns the upright image in RGB."""
        return decode_image(self.data, name=self.name or "image")


def read_image(source: str | Path | bytes, *, name: str | None = None, allow_url: bool = False) -> ChatImage:
    """Reads an image and checks that it can be decoded.

    An image above `MAX_BYTES` is made smaller, and one that other programs would not show as we do is encoded anew: in
    sRGB, as PNG or JPEG.

    Args:
        source: a file, a data URI, encoded bytes, or with `allow_url` an http(s) URL.
        name: name for lists and messages (default: the file's own).

    Raises:
        ImageError: see `llava.images.loading.load_image`.
    """
    data, found = read_encoded(source, allow_url=allow_url)
    name = Path(found).name if name is None else name
    decoded = decode_image(data, name=name)
    media_type = portable_type(data, name)
    if media_type is not None and len(data) <= MAX_BYTES:
        return ChatImage(data, media_type, name)
    return _encoded(decoded, name)


def shaped(image: ChatImage, shape: ImageShape) -> ChatImage:
    """Returns the image as it is sent to the model: the same object if the shape changes nothing."""
    return image if shape == "Crop" else _shaped(image, shape)


@lru_cache(maxsize=16)  # every question sends the conversation's images again; an entry holds two
def _shaped(image: ChatImage, shape: ImageShape) -> ChatImage:
    from llava.mm_utils import expand2square

    decoded = image.decode()
    if decoded.width == decoded.height:
        return image
    if shape == "Pad":
        return _encoded(expand2square(decoded, _PAD_COLOUR), image.name)
    side = min(max(decoded.size), _REDUCTIONS[0][0])
    return _encoded(decoded.resize((side, side)), image.name)


def _encoded(image: Image.Image, name: str) -> ChatImage:
    """Encodes without loss if the result is small enough, else as ever smaller JPEGs."""
    if image.width * image.height <= _MAX_PNG_PIXELS:
        data = _saved(image, "PNG")
        if len(data) <= MAX_BYTES:
            return ChatImage(data, "image/png", name)
    for side, quality in _REDUCTIONS:
        smaller = image.copy()
        smaller.thumbnail((side, side))
        data = _saved(smaller, "JPEG", quality=quality)
        if len(data) <= MAX_BYTES:
            break
    return ChatImage(data, "image/jpeg", name)


def _saved(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
