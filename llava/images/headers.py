"""Opens an image without decoding its pixels, after all checks that its header allows.

Every image passes here first: it is recognised by its bytes, and an image of too many pixels is refused before memory
is taken for it.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from llava.errors import ImageDamaged, ImageTooLarge, ImageUnreadable, InvalidRequest, UnsupportedImage
from llava.images.data_uris import check_bytes
from llava.images.formats import MEDIA_TYPES, ImageFormat, decoder_errors, describe_damage, recognise

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_PIXELS_VARIABLE: Final = "LLAVA_MAX_IMAGE_PIXELS"
DEFAULT_MAX_PIXELS: Final = 50_000_000
"""Width times height of the largest image, unless the environment variable sets another limit."""

_ORIENTATION_TAG: Final = 0x0112
_HEAD_BYTES: Final = 1024
"""Bytes of a file that decide its format, and that messages about other files describe."""


def _max_pixels() -> int:
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if not text:
        return DEFAULT_MAX_PIXELS
    if not text.isdecimal() or int(text) < 1:
        raise InvalidRequest(
            f"{MAX_PIXELS_VARIABLE}={text!r}: expected a whole number of pixels, such as {DEFAULT_MAX_PIXELS}."
        )
    return int(text)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of an image, all checked before decoding.

    Decoding briefly takes up to 10 bytes of memory per pixel in addition to the file (grey with alpha 14, WebP 18),
    which is half a gigabyte at the default limit of 50 megapixels.
    """

    max_bytes: int = 64 * 1024 * 1024
    """Size of the encoded file in bytes (default: 64 MiB)."""
    max_pixels: int = field(default_factory=_max_pixels)
    """Width times height (default: 50 megapixels, or the environment variable LLAVA_MAX_IMAGE_PIXELS)."""
    max_side: int = 65_535
    """Longer side in pixels (default: 65535)."""


def open_image(data: bytes, name: str, limits: ImageLimits) -> ImageFile.ImageFile:
    """Opens an encoded image called `name` in messages; its pixels are not decoded.

    Raises:
        ImageTooLarge: the image exceeds a limit.
        UnsupportedImage: not an image, or an unsupported format; the message says what the data look like.
        ImageDamaged: the header is truncated or inconsistent.
    """
    check_bytes(len(data), name, limits.max_bytes)
    image_format = recognise(data, name)
    with damage_named(data, name, image_format):
        size = image_format.header_size(data) if image_format.header_size else None
        if size is not None:
            check_dimensions(size, name, limits)
        image = image_format.open(io.BytesIO(data), name)
        _check(image, name, image_format, limits)
        return image


@contextmanager
def damage_named(data: bytes, name: str, image_format: ImageFormat) -> Iterator[None]:
    """Turns what a decoder raises within it into `ImageDamaged`, or `ImageTooLarge` if memory was short."""
    try:
        yield
    except MemoryError as error:
        raise ImageTooLarge(f"{name}: not enough memory to decode the image. Resize it.") from error
    except decoder_errors() as error:
        if "unknown pixel mode" in str(error):
            raise _unknown_layout(name, image_format) from error
        raise ImageDamaged(describe_damage(data, name, image_format)) from error


def read_size(path: Path, *, limits: ImageLimits | None = None) -> tuple[int, int]:
    """Returns the (width, height) that `load_image` gives the image in a file, reading as little of it as possible.

    Damage behind the header is not noticed.

    Raises:
        ImageUnreadable: the file does not exist, is a folder, or cannot be opened.
        ImageTooLarge, UnsupportedImage, ImageDamaged: as `open_image`.
    """
    limits, name = limits or ImageLimits(), shown_name(str(path))
    with open_file(path, name, limits) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of Pillow on metadata
        head = file.read(_HEAD_BYTES)
        image_format = recognise(head, name)
        file.seek(0)
        try:
            size = image_format.header_size(head) if image_format.header_size else None
            if size is not None:
                check_dimensions(size, name, limits)
            with image_format.open(file, name) as image:
                _check(image, name, image_format, limits)
                width, height = image.size
                lying = orientation(image) >= 5
        except decoder_errors() as error:
            raise ImageDamaged(f"{name}: the header of this {image_format.label} image cannot be read.") from error
    return (height, width) if lying else (width, height)


@contextmanager
def open_file(path: Path, name: str, limits: ImageLimits) -> Iterator[IO[bytes]]:
    """Opens a regular file of no more than the allowed bytes for reading.

    Raises:
        ImageUnreadable: the file does not exist, is a folder, or cannot be opened or read.
        ImageTooLarge: the file has more bytes than allowed.
    """
    try:
        # Checked before opening, because opening a named pipe would wait forever.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageUnreadable(f"{name}: this is a folder. Give the path of an image file.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageUnreadable(f"{name}: not a regular file. Give the path of an image file.")
        check_bytes(status.st_size, name, limits.max_bytes)
        file = path.open("rb")
    except FileNotFoundError as error:
        raise ImageUnreadable(f"{name}: no such file (looked in {shown_name(str(Path.cwd()))}).") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a valid path"
        raise ImageUnreadable(f"{name}: cannot be read ({reason.lower()}).") from error
    with file:
        yield file


def portable_type(data: bytes, name: str, limits: ImageLimits | None = None) -> str | None:
    """Returns the media type of an image that any service of OpenAI's API shows as we do, else None.

    Such an image has one of the formats of `MEDIA_TYPES` and no colour profile but that of sRGB, which programs that
    ignore profiles assume.

    Raises:
        ImageTooLarge, UnsupportedImage, ImageDamaged: as `open_image`.
    """
    from llava.images.colour import profile_of

    media_type = MEDIA_TYPES.get(recognise(data, name).label)
    if media_type is None or profile_of(open_image(data, name, limits or ImageLimits())) is not None:
        return None
    return media_type


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 is upright, and the others from 5 on lie on their side."""
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except decoder_errors():
        return 1  # Damaged metadata do not affect the pixels; viewers ignore them too.
    return found if found in range(1, 9) else 1


def _check(image: ImageFile.ImageFile, name: str, image_format: ImageFormat, limits: ImageLimits) -> None:
    check_dimensions(image.size, name, limits)
    unit = image_format.unit_size(image) if image_format.unit_size else None
    if unit is not None:
        check_dimensions(unit, name, limits)
    if image_format.is_misread and image_format.is_misread(image):
        raise _unknown_layout(name, image_format)


def _unknown_layout(name: str, image_format: ImageFormat) -> UnsupportedImage:
    label = image_format.label
    return UnsupportedImage(f"{name}: this {label} image has a layout of pixels that cannot be read. Save it as PNG.")


def check_dimensions(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    """Raises `ImageTooLarge` for more pixels or a longer side than allowed, `ImageDamaged` for none."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageDamaged(f"{name}: the header declares {width} x {height} pixels; an image needs at least 1 x 1.")
    if max(width, height) > limits.max_side:
        raise ImageTooLarge(
            f"{name}: {width} x {height} pixels, the limit for the longer side is {limits.max_side}. Resize it."
        )
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"{name}: {width} x {height} is {width * height / 1e6:.1f} megapixels, the limit is "
            f"{limits.max_pixels / 1e6:.1f}. Resize the image, or raise {MAX_PIXELS_VARIABLE}."
        )


def shown_name(name: str) -> str:
    """Makes a name safe for a line of a message or log: no credentials, no control characters, at most 200 long."""
    if "://" in name:
        name = re.sub(r"://[^/@\s]*@", "://", name).split("?", 1)[0]
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return printable if len(printable) <= 200 else f"{printable[:120]}…{printable[-60:]}"
