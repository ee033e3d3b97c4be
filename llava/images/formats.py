"""Recognises the supported image formats, and describes data in any other format.

A format is recognised by the first bytes of the data, never by a file name, and decoded by its own Pillow plugin.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llava.errors import UnsupportedImage

if TYPE_CHECKING:
    from PIL import ImageFile


MEDIA_TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WebP": "image/webp", "GIF": "image/gif"}
"""Media types of the formats that every service of OpenAI's API accepts, by label. Images of the other formats are
encoded anew before they are sent on."""
FILE_SUFFIXES: Final = (
    *(".png", ".jpg", ".jpeg", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tif", ".tiff"),
)
"""Usual endings of the names of images, for choosing files; the content of a file decides its format."""


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A supported format: how it is recognised and decoded."""

    label: str
    """Name of the format in messages."""
    magic: re.Pattern[bytes]
    """Pattern of the first bytes."""
    plugin: str
    """Module and class of the decoder, separated by a colon; the module is one of Pillow's, or has a dot before it."""
    declared_bytes: Callable[[bytes], int | None] | None = None
    """Returns the length that the data declare in bytes, for formats that declare one."""
    header_size: Callable[[bytes], tuple[int, int] | None] | None = None
    """Reads width and height from the header, for formats whose decoder in Pillow allocates memory on opening."""
    unit_size: Callable[[ImageFile.ImageFile], tuple[int, int] | None] | None = None
    """Returns width and height of the unit that is decoded at a time, for formats that let it exceed the image."""

    def open(self, data: bytes) -> ImageFile.ImageFile:
        """Reads the header without decoding pixels; raises any of `decoder_errors()` on bad data.

        The plugin is called directly, because `Image.open` would try every format that it knows and apply a global
        limit to large images instead of ours.
        """
        module, name = self.plugin.split(":")
        path = module.removeprefix(".") if module.startswith(".") else f"PIL.{module}"
        image: ImageFile.ImageFile = getattr(importlib.import_module(path), name)(io.BytesIO(data))
        return image


def recognise(data: bytes, name: str) -> ImageFormat:
    """Returns the format of the data.

    Args:
        data: the encoded image; the first bytes are enough.
        name: name of the image in error messages.

    Raises:
        UnsupportedImage: the format is not supported; the message says what the data look like.
    """
    if not data:
        raise UnsupportedImage(f"{name}: the file is empty (0 bytes).")
    for image_format in IMAGE_FORMATS:
        if image_format.magic.match(data):
            return image_format
    labels = ", ".join(image_format.label for image_format in IMAGE_FORMATS[:-1])
    raise UnsupportedImage(
        f"{name}: not an image that can be read; it looks like {looks_like(data)}. "
        f"Give a {labels} or {IMAGE_FORMATS[-1].label} image."
    )


def describe_damage(data: bytes, name: str, image_format: ImageFormat) -> str:
    """Says why data could not be decoded, as far as their header and length show it."""
    label = image_format.label
    declared = image_format.declared_bytes(data) if image_format.declared_bytes else None
    if declared is not None and declared > len(data):
        return f"{name}: this {label} image is truncated: {len(data)} of at least {declared} bytes."
    if label == "JPEG" and b"\xff\xd9" not in data[-64:]:
        return f"{name}: this JPEG image is truncated: it ends after {len(data)} bytes without an end marker."
    return f"{name}: this {label} image ({len(data)} bytes) is damaged or truncated and cannot be decoded."


def readable_bytes(count: int) -> str:
    """Formats a number of bytes for a message."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count} bytes"


def decoder_errors() -> tuple[type[BaseException], ...]:
    """Returns all exceptions that Pillow's decoders raise on bad data, including warnings turned into errors."""
    from PIL import Image

    return (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        ArithmeticError,
        AttributeError,
        RuntimeError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
        UserWarning,
        Image.DecompressionBombWarning,
    )


def _png_bytes(data: bytes) -> int | None:
    """Returns the position at which the last chunk that starts within the data should end."""
    position = 8
    while position + 8 <= len(data):
        length, tag = struct.unpack_from(">I4s", data, position)
        position += length + 12
        if tag == b"IEND":
            return position
    return max(position, len(data) + 1)  # The IEND chunk is missing.


def _riff_bytes(data: bytes) -> int | None:
    return int.from_bytes(data[4:8], "little") + 8


def _bmp_bytes(data: bytes) -> int | None:
    return int.from_bytes(data[2:6], "little")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    chunk = data[12:16]
    if len(data) < 30 or chunk not in (b"VP8X", b"VP8L", b"VP8 "):
        return None
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_tile(image: ImageFile.ImageFile) -> tuple[int, int] | None:
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(322), tags.get(323)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _magic(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


IMAGE_FORMATS: Final = (
    ImageFormat("PNG", _magic(rb"\x89PNG\r\n\x1a\n"), "PngImagePlugin:PngImageFile", _png_bytes),
    ImageFormat("JPEG", _magic(rb"\xff\xd8\xff"), "JpegImagePlugin:JpegImageFile"),
    ImageFormat("WebP", _magic(rb"RIFF....WEBP"), "WebPImagePlugin:WebPImageFile", _riff_bytes, _webp_size),
    ImageFormat("AVIF", _magic(rb"....ftyp(?:avif|avis|mif1.{0,40}avif)"), "AvifImagePlugin:AvifImageFile"),
    ImageFormat("HEIC", _magic(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"), ".pillow_heif:HeifImageFile"),
    ImageFormat("GIF", _magic(rb"GIF8[79]a"), "GifImagePlugin:GifImageFile"),
    ImageFormat("BMP", _magic(rb"BM.{12}[\x0c-\x7c]\x00\x00\x00"), "BmpImagePlugin:BmpImageFile", _bmp_bytes),
    ImageFormat(
        "TIFF", _magic(rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]"), "TiffImagePlugin:TiffImageFile", unit_size=_tiff_tile
    ),
)

_STRANGERS: Final = (
    (_magic(rb"%PDF"), "a PDF document"),
    (_magic(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript (EPS)"),
    (_magic(rb"....ftyp|\x1aE\xdf\xa3"), "a video"),
    (_magic(rb"PK\x03\x04"), "a ZIP archive"),
    (_magic(rb"\x1f\x8b"), "gzip-compressed data"),
    (_magic(rb"\x00\x00\x01\x00"), "a Windows icon"),
    (_magic(rb"8BPS"), "a Photoshop document"),
    (_magic(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "JPEG XL"),
    (_magic(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (_magic(rb"version https://git-lfs"), "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (_magic(rb"\x89PNG|RIFF|GIF8|\xff\xd8"), "an image whose first bytes are damaged"),
    (_magic(rb"\x00+\Z"), "nothing but zero bytes"),
)
_MARKUP: Final = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!doctype\s+([a-z]+)[^>]*>\s*)*<([a-z]+)", re.DOTALL | re.IGNORECASE
)


def looks_like(data: bytes) -> str:
    """Describes what unsupported data appear to be, for a message."""
    head = data[:1024].removeprefix(b"\xef\xbb\xbf")
    for magic, label in _STRANGERS:
        if magic.match(head):
            return label
    markup = _MARKUP.match(head)
    if markup:
        words = {word.lower() for word in markup.groups() if word}
        return "SVG, a drawing: save it as PNG" if b"svg" in words else "HTML or XML, as from a web page"
    text = head.decode("utf-8", errors="ignore")
    readable = sum(char.isprintable() or char.isspace() for char in text)
    return "text" if text and readable == len(text) and len(text.encode()) > len(head) - 4 else "unknown binary data"
