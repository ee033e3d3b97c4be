"""Recognises the supported image formats, and describes data in any other format.

A format is recognised by the first bytes of the data, never by a file name, and decoded by its own Pillow plugin.
"""

from __future__ import annotations

import importlib
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from llava.errors import UnsupportedImage

if TYPE_CHECKING:
    from PIL import ImageFile


MEDIA_TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WebP": "image/webp", "GIF": "image/gif"}
"""Media types of the formats that every service of OpenAI's API accepts, by label. Images of the other formats are
encoded anew before they are sent on."""
FILE_SUFFIXES: Final = tuple(
    f".{name}" for name in ["png", "jpg", "jpeg", "webp", "avif", "heic", "heif", "hif", "gif", "bmp", "tif", "tiff"]
)
"""Usual endings of the names of images, for choosing files; the content of a file decides its format."""

HEAD_BYTES: Final = 256
"""Bytes of a file that decide its format."""


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A supported format: how it is recognised and decoded."""

    label: str
    """Name of the format in messages."""
    is_start: Callable[[bytes], object]
    """Returns something true for the first bytes of an image in this format; `HEAD_BYTES` of them are enough."""
    plugin: str
    """Module and class of the decoder, separated by a colon."""
    package: str = "pillow"
    """The package that the decoder comes with."""
    declared_bytes: Callable[[bytes], int | None] | None = None
    """Returns the length that the data declare in bytes, for formats that declare one."""
    header_size: Callable[[bytes], tuple[int, int] | None] | None = None
    """Reads width and height from the header, for formats whose decoder in Pillow allocates memory on opening."""
    unit_size: Callable[[ImageFile.ImageFile], tuple[int, int] | None] | None = None
    """Returns width and height of the unit that is decoded at a time, for formats that let it exceed the image."""

    is_misread: Callable[[ImageFile.ImageFile], bool] | None = None
    """Returns whether the decoder would give wrong pixels for an opened image, for formats where that happens."""

    def open(self, file: IO[bytes], name: str) -> ImageFile.ImageFile:
        """Reads the header without decoding pixels; raises any of `decoder_errors()` on bad data.

        The plugin is called directly, because `Image.open` would try every format that it knows and apply a global
        limit to large images instead of ours.

        Args:
            file: the encoded image; must stay open until the pixels are decoded.
            name: name of the image in error messages.

        Raises:
            UnsupportedImage: the decoder is not installed.
        """
        path, plugin = self.plugin.split(":")
        try:
            module = importlib.import_module(path)
            if not getattr(module, "SUPPORTED", True):
                raise ImportError(f"{self.package} was built without it")
            image: ImageFile.ImageFile = getattr(module, plugin)(file)
        except ImportError as error:
            raise UnsupportedImage(
                f"{name}: {self.label} images cannot be read, because the decoder is missing ({error}). Run "
                f"`pip install --force-reinstall {self.package}`, or save the image as JPEG."
            ) from error
        return image


def is_image(head: bytes) -> bool:
    """Returns whether data begin as an image in one of the supported formats does; `HEAD_BYTES` are enough."""
    return any(image_format.is_start(head) for image_format in IMAGE_FORMATS)


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
        if image_format.is_start(data):
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


def _boxes_bytes(data: bytes) -> int | None:
    """Returns where the last box of a file in the container of MPEG-4 that starts within the data should end."""
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length == 1:  # a longer number follows
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        if length < 8:  # 0: up to the end of the file
            return None
        position += length
    return position


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


def _is_misread_tiff(image: ImageFile.ImageFile) -> bool:
    # Uncompressed channels of 16 bits that are stored apart: Pillow takes two samples of one channel for two channels.
    tags = getattr(image, "tag_v2", {})
    return tags.get(284) == 2 and tags.get(259, 1) == 1 and max(tags.get(258, (1,))) > 8


def _brands(data: bytes) -> tuple[bytes, ...]:
    """Returns the brands of a file in the container of MPEG-4, the major one first; none for other files."""
    if data[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(data[:4], "big"), len(data))
    return (data[8:12], *(data[start : start + 4] for start in range(16, end, 4)))


def _is_avif(data: bytes) -> bool:
    brands = _brands(data)
    return brands[:1] in ((b"avif",), (b"avis",)) or (
        brands[:1] in _ANY_CODEC and not _HEVC.intersection(brands) and b"avif" in brands
    )


def _is_heic(data: bytes) -> bool:
    brands = _brands(data)
    return bool(brands) and (brands[0] in _HEVC or brands[:1] in _ANY_CODEC)


_HEVC: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_ANY_CODEC: Final = ((b"mif1",), (b"msf1",), (b"miaf",))
"""Major brands of images whose codec only the other brands tell."""


def _magic(pattern: bytes) -> Callable[[bytes], object]:
    return re.compile(pattern, re.DOTALL).match


IMAGE_FORMATS: Final = (
    ImageFormat("PNG", _magic(rb"\x89PNG\r\n\x1a\n"), "PIL.PngImagePlugin:PngImageFile", declared_bytes=_png_bytes),
    ImageFormat("JPEG", _magic(rb"\xff\xd8\xff"), "PIL.JpegImagePlugin:JpegImageFile"),
    ImageFormat(
        "WebP",
        _magic(rb"RIFF....WEBP"),
        "PIL.WebPImagePlugin:WebPImageFile",
        declared_bytes=_riff_bytes,
        header_size=_webp_size,
    ),
    ImageFormat("AVIF", _is_avif, "PIL.AvifImagePlugin:AvifImageFile", declared_bytes=_boxes_bytes),
    ImageFormat("HEIC", _is_heic, "pillow_heif:HeifImageFile", "pillow-heif", declared_bytes=_boxes_bytes),
    ImageFormat("GIF", _magic(rb"GIF8[79]a"), "PIL.GifImagePlugin:GifImageFile"),
    ImageFormat(
        "BMP",
        _magic(rb"BM.{12}[\x0c-\x7c]\x00\x00\x00"),
        "PIL.BmpImagePlugin:BmpImageFile",
        declared_bytes=_bmp_bytes,
    ),
    ImageFormat(
        "TIFF",
        _magic(rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]"),
        "PIL.TiffImagePlugin:TiffImageFile",
        unit_size=_tiff_tile,
        is_misread=_is_misread_tiff,
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
    for is_start, label in _STRANGERS:
        if is_start(head):
            return label
    markup = _MARKUP.match(head)
    if markup:
        words = {word.lower() for word in markup.groups() if word}
        return "SVG, a drawing: save it as PNG" if b"svg" in words else "HTML or XML, as from a web page"
    text = head.decode("utf-8", errors="ignore")
    readable = sum(char.isprintable() or char.isspace() for char in text)
    return "text" if text and readable == len(text) and len(text.encode()) > len(head) - 4 else "unknown binary data"
