"""Encodes the images of a report as data URIs that together stay within the size the user allows."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from llava.errors import ImageError
from llava.eval.data.questions import ImageFolder

if TYPE_CHECKING:
    from PIL import Image

SIDES: Final = (320, 224, 160, 112, 80)
"""Possible sizes of the longer side of a thumbnail, in pixels. The first with which all images fit is used."""
_THUMBNAIL_QUALITY: Final = 75
_FULL_QUALITY: Final = 92
_BASE64: Final = 4 / 3


@dataclass(frozen=True)
class Images:
    """The images that the questions name."""

    uris: dict[str, str]
    """Data URIs of the images in the report, by name."""
    absent: dict[str, str]
    """Why each other image is left out, by name."""
    side: int | None
    """Longer side of the thumbnails, in pixels; None for images in full size."""


Progress = Callable[[Sequence[str]], Any]
"""Wraps the names of the images to show progress, as tqdm does."""


def embed(names: Sequence[str], folder: Path, *, full: bool, max_bytes: int, progress: Progress = iter) -> Images:
    """Reads images from a folder and encodes them for a page.

    Args:
        names: paths relative to the folder, each once. COCO names may have or lack `COCO_val2014_`.
        full: whether images keep their full size instead of becoming thumbnails.
        max_bytes: limit for all data URIs together. Thumbnails shrink until they fit. If the smallest do not, the last
            ones are left out.
    """
    finder = ImageFolder(folder)
    encoded: dict[str, bytes] = {}
    absent: dict[str, str] = {}
    for name in progress(names):
        try:
            encoded[name] = _encoded(_read(name, finder), full=full)
        except (ImageError, LookupError) as error:
            absent[name] = str(error.args[0])
    side = None if full else SIDES[0]
    for smaller in () if full else SIDES[1:]:
        if _size(encoded) <= max_bytes:
            break
        side = smaller
        encoded = {name: _shrunk(data, smaller) for name, data in encoded.items()}
    kept = _within(encoded, max_bytes)
    limit = f"over the limit of {max_bytes / 1e6:g} MB for images (--image-megabytes)"
    absent |= {name: limit for name in encoded if name not in kept}
    kind = "jpeg" if full else "webp"
    uris = {name: f"data:image/{kind};base64,{base64.b64encode(encoded[name]).decode()}" for name in kept}
    return Images(uris, absent, side)


def _read(name: str, finder: ImageFolder) -> Image.Image:
    from llava.images.loading import load_image

    # Question files may come from anywhere, and a page that is passed on must contain only the benchmark's images.
    if ".." in PurePosixPath(name).parts or (Path(name).is_absolute() and finder.folder not in Path(name).parents):
        raise LookupError(f"{name} is not inside {finder.folder}")
    path = finder.find(name)
    if path is None:
        raise LookupError(f"not in {finder.folder}")
    return load_image(path)


def _encoded(image: Image.Image, *, full: bool) -> bytes:
    if full:
        return _saved(image, "JPEG", _FULL_QUALITY)
    return _thumbnail(image, SIDES[0])


def _shrunk(data: bytes, side: int) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
        return _thumbnail(image.convert("RGB"), side)


def _thumbnail(image: Image.Image, side: int) -> bytes:
    image.thumbnail((side, side))
    return _saved(image, "WEBP", _THUMBNAIL_QUALITY)


def _saved(image: Image.Image, kind: str, quality: int) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, quality=quality)
    return content.getvalue()


def _size(encoded: dict[str, bytes]) -> float:
    return sum(map(len, encoded.values())) * _BASE64


def _within(encoded: dict[str, bytes], max_bytes: int) -> list[str]:
    kept, total = [], 0.0
    for name, data in encoded.items():
        total += len(data) * _BASE64
        if total > max_bytes:
            break
        kept.append(name)
    return kept
