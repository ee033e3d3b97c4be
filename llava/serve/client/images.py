"""Pictures as our front ends hold them: checked once, small enough to travel, in the shape that the user chose."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from llava.images.formats import recognise
from llava.images.loading import decode_image, read_encoded
from llava.serve.worker.images import MEDIA_TYPES

if TYPE_CHECKING:
    from PIL import Image

PictureShape = Literal["Crop", "Resize", "Pad"]
SHAPES: Final[tuple[PictureShape, ...]] = get_args(PictureShape)
"""What is done with a picture that is not square, under the original's names: leave it to the model (which crops to the
centre, or does what its checkpoint says), squeeze it, or pad it."""

MAX_BYTES: Final = 900_000
"""Of one picture as it is sent: 16 of them, in base64, stay below the 20 MB of a request."""
_PAD_COLOUR: Final = (122, 116, 104)
"""The mean colour of CLIP's training pictures, which its normalization turns into zeros."""
_REDUCTIONS: Final = ((2048, 90), (2048, 80), (1344, 85), (1344, 70), (1024, 60), (768, 50))
"""Longest side and JPEG quality, tried in turn. No LLaVA looks at more than 1344 pixels a side."""
_MAX_PNG_PIXELS: Final = 4_000_000
"""A larger picture as PNG is seldom small enough, and takes seconds to find out."""


@dataclass(frozen=True)  # no slots: what is made of a picture is kept by weak reference to it
class ChatPicture:
    """One picture of a conversation, encoded."""

    data: bytes
    media_type: str
    name: str
    """The file's name, for lists and messages; may be empty."""

    def as_data_uri(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"

    def decode(self) -> Image.Image:
        """The picture as it should be seen, RGB."""
        return decode_image(self.data, name=self.name or "picture")


def read_picture(source: str | Path | bytes, *, name: str | None = None, allow_url: bool = False) -> ChatPicture:
    """Reads a picture and checks that it can be decoded; one that is too heavy to travel becomes smaller.

    Args:
        source: a file, a data URI, encoded bytes, or with `allow_url` an http(s) address.
        name: what it is called; the file's own name by default.

    Raises:
        ImageError: what `llava.images.loading.load_image` raises.
    """
    data, found = read_encoded(source, allow_url=allow_url)
    name = Path(found).name if name is None else name
    decoded = decode_image(data, name=name)
    kind = recognise(data, name).label
    if kind in MEDIA_TYPES and len(data) <= MAX_BYTES:
        return ChatPicture(data, MEDIA_TYPES[kind], name)
    return _encoded(decoded, name)


def shaped(picture: ChatPicture, shape: PictureShape) -> ChatPicture:
    """The picture as it is sent to the model; itself where the shape changes nothing."""
    return picture if shape == "Crop" else _shaped(picture, shape)


@lru_cache(maxsize=16)  # every question of a conversation sends its pictures again; each entry holds two
def _shaped(picture: ChatPicture, shape: PictureShape) -> ChatPicture:
    from llava.mm_utils import expand2square

    decoded = picture.decode()
    if decoded.width == decoded.height:
        return picture
    if shape == "Pad":
        return _encoded(expand2square(decoded, _PAD_COLOUR), picture.name)
    side = min(max(decoded.size), _REDUCTIONS[0][0])
    return _encoded(decoded.resize((side, side)), picture.name)


def _encoded(picture: Image.Image, name: str) -> ChatPicture:
    """Without loss where that is small enough, else smaller and smaller."""
    if picture.width * picture.height <= _MAX_PNG_PIXELS:
        data = _saved(picture, "PNG")
        if len(data) <= MAX_BYTES:
            return ChatPicture(data, "image/png", name)
    for side, quality in _REDUCTIONS:
        smaller = picture.copy()
        smaller.thumbnail((side, side))
        data = _saved(smaller, "JPEG", quality=quality)
        if len(data) <= MAX_BYTES:
            break
    return ChatPicture(data, "image/jpeg", name)


def _saved(picture: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
