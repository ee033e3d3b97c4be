"""Loads an image from any source as an upright 8-bit RGB image, or raises a typed error.

All images in the program are loaded here, and all are untrusted: size, format and dimensions are checked before a pixel
is decoded, each format has one fixed decoder, and error messages never quote a decoder. Pillow's global settings stay
untouched, so any number of threads can load images at once.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Union

from llava.errors import (
    ImageDamaged,
    ImageTooLarge,
    ImageUnreadable,
    ImageUrlRefused,
    InvalidRequest,
    UnsupportedImage,
)
from llava.images.colour import in_srgb
from llava.images.formats import decoder_errors, describe_damage, readable_bytes, recognise

if TYPE_CHECKING:
    from PIL import Image

    from llava.images.fetching import UrlPolicy

ImageSource = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], "Image.Image"]

MAX_PIXELS_VARIABLE: Final = "LLAVA_MAX_IMAGE_PIXELS"
DEFAULT_MAX_PIXELS: Final = 50_000_000
"""Width times height of the largest image, unless the environment variable sets another limit."""


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


def load_image(
    source: ImageSource,
    *,
    allow_url: bool = False,
    allow_path: bool = True,
    limits: ImageLimits | None = None,
    url_policy: UrlPolicy | None = None,
) -> Image.Image:
    """Loads an image upright, as 8-bit RGB.

    Supports PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP and TIFF, whatever the file name. The EXIF orientation is applied.
    Colours are converted to sRGB if the image has another profile. Transparent images are drawn on white, as viewers
    do, because a plain `convert("RGB")` would turn black text on a transparent background into a black image. 16-bit
    and floating-point grey is scaled, not clipped. Animations give their first frame. Opaque RGB and grey images
    without a profile, or with that of sRGB, keep their exact values.

    Args:
        source: path, bytes, open binary file, data URI, Pillow image or http(s) URL.
        allow_url: allows fetching an http(s) URL.
        allow_path: allows opening local files; servers pass False for sources from clients.
        limits: allowed bytes, pixels and side; `ImageLimits()` if None.
        url_policy: hosts and times allowed for a URL; `UrlPolicy()`, which allows public addresses only, if None.

    Returns:
        A loaded image of mode RGB that no longer depends on the source.

    Raises:
        ImageUnreadable: the file does not exist, is a folder, or cannot be opened.
        ImageTooLarge: the image exceeds a limit; nothing was decoded.
        UnsupportedImage: not an image, or an unsupported format; the message says what the data look like.
        ImageDamaged: the data are truncated or inconsistent.
        ImageUrlRefused, ImageFetchFailed: see `llava.images.fetching.fetch`.
    """
    from PIL import Image

    limits = limits or ImageLimits()
    if isinstance(source, Image.Image):
        name = _shown(str(getattr(source, "filename", "") or "image"))
        _check_dimensions(source.size, name, limits)
        try:
            source.load()
            return to_rgb(source)
        except decoder_errors() as error:
            raise ImageDamaged(f"{name}: the image is damaged or truncated and cannot be decoded.") from error
    data, name = read_encoded(source, allow_url=allow_url, allow_path=allow_path, limits=limits, url_policy=url_policy)
    return decode_image(data, name=name, limits=limits)


def load_image_from_base64(image: str | bytes, *, limits: ImageLimits | None = None) -> Image.Image:
    """Loads an image from base64 text, with or without a `data:` prefix, like `load_image`."""
    limits = limits or ImageLimits()
    if isinstance(image, bytes):
        image = image.decode("ascii", errors="replace")
    if image.lstrip()[:5].lower() == "data:":
        return load_image(image, allow_path=False, limits=limits)
    return decode_image(read_base64(image, "base64 image", limits), name="base64 image", limits=limits)


def decode_image(data: bytes, *, name: str = "image", limits: ImageLimits | None = None) -> Image.Image:
    """Decodes an encoded image called `name` in messages; result and errors are those of `load_image`."""
    limits = limits or ImageLimits()
    _check_bytes(len(data), name, limits)
    image_format = recognise(data, name)
    size = image_format.header_size(data) if image_format.header_size else None
    if size is not None:
        _check_dimensions(size, name, limits)
    try:
        image = image_format.open(data)
        _check_dimensions(image.size, name, limits)
        unit = image_format.unit_size(image) if image_format.unit_size else None
        if unit is not None:
            _check_dimensions(unit, name, limits)
        image.load()
        rgb = to_rgb(image)
    except MemoryError as error:
        raise ImageTooLarge(f"{name}: not enough memory to decode the image. Resize it.") from error
    except decoder_errors() as error:
        raise ImageDamaged(describe_damage(data, name, image_format)) from error
    # The decoder's image would keep the encoded file in memory, and metadata such as the place where it was taken.
    rgb = rgb.copy() if rgb is image else rgb
    rgb.info = {}
    return rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns any Pillow image as upright 8-bit RGB, with transparency on white; such an image is returned itself."""
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) and profile else None
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return in_srgb(image, profile)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = in_srgb(_scaled_to_8_bits(image), profile).convert("RGB")
        return _white_where(grey, image, image.info["transparency"]) if "transparency" in image.info else grey
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image, profile)
    if image.mode == "P":
        image = image.convert("RGB")
    return in_srgb(image, profile).convert("RGB")


def _white_where(rgb: Image.Image, image: Image.Image, level: Any) -> Image.Image:
    """Makes white what is transparent in a 16-bit grey image, where one level is."""
    import numpy as np
    from PIL import Image

    transparent = np.asarray(image) == level
    rgb.paste((255, 255, 255), mask=Image.fromarray(transparent.astype(np.uint8) * 255))
    return rgb


def _on_white(image: Image.Image, profile: bytes | None) -> Image.Image:
    from PIL import Image

    if image.mode in ("La", "RGBa"):  # Pillow converts these to RGBA only in two steps.
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:
        # Of a PNG with 16 bits a channel Pillow keeps the upper 8, but not of its transparent colour.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    if image.mode == "LA" and profile is not None:
        image = in_srgb(image, profile)
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    layer = in_srgb(layer, profile)
    canvas = Image.new("RGB", layer.size, (255, 255, 255))
    canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas


_TURNS: Final = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_ORIENTATION_TAG: Final = 0x0112
_URL_ALPHABET: Final = str.maketrans("-_", "+/")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except decoder_errors():
        # Damaged metadata do not affect the pixels; viewers ignore them too.
        return image
    if turn is None:
        return image
    upright = image.transpose(Image.Transpose[turn])
    # The copy would keep its orientation tag and be rotated again by the next reader.
    upright.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return upright


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Scales grey values to 8 bits: 16-bit images by their full range, others by the range that they appear to use."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    known = values[np.isfinite(values)] if image.mode == "F" else values
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if image.mode != "F" and low >= 0 and high <= 65_535:
        table = np.rint(np.arange(65_536) * (255 / 65_535)).astype(np.uint8)
        return Image.fromarray(table[values])
    if image.mode == "F" and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    scale = 255 / (high - low) if high > low else 0.0
    grey = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):  # row by row: a float copy of all would be large
        grey[row] = np.clip(np.rint(np.nan_to_num((line.astype(np.float64) - low) * scale)), 0, 255)
    return Image.fromarray(grey)


# Sources


def read_encoded(
    source: Any,
    *,
    allow_url: bool = False,
    allow_path: bool = True,
    limits: ImageLimits | None = None,
    url_policy: UrlPolicy | None = None,
) -> tuple[bytes, str]:
    """Reads an image without decoding it; returns its bytes and its name in messages. See `load_image`."""
    limits = limits or ImageLimits()
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(memoryview(source).nbytes, "image", limits)
        return bytes(source), "image"
    if isinstance(source, str):
        scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.\-]*):(?://)?", source.lstrip())
        if scheme and scheme[1].lower() == "data":
            return read_data_uri(source, "data URI", limits), "data URI"
        if scheme and scheme[0].endswith("://"):
            return _read_url(source.strip(), scheme[1].lower(), allow_url, limits, url_policy), _shown(source)
    if isinstance(source, (str, os.PathLike)):
        if not allow_path:
            raise ImageUnreadable("file names are not accepted here. Send the image as a data URI.")
        return _read_file(Path(os.fspath(source)), limits), _shown(str(source))
    if hasattr(source, "read"):
        name = _shown(str(getattr(source, "name", "open file")))
        data = source.read(limits.max_bytes + 1)
        if not isinstance(data, bytes):
            raise ImageUnreadable(f"{name}: the file is open in text mode. Open it in binary mode: open(path, 'rb').")
        _check_bytes(len(data), name, limits)
        return data, name
    raise UnsupportedImage(
        f"cannot load an image from a {type(source).__name__}. Pass a path, bytes, an open binary file, a data URI, "
        "an http(s) URL or a Pillow image."
    )


def _read_file(path: Path, limits: ImageLimits) -> bytes:
    name = _shown(str(path))
    try:
        # Checked before opening, because opening a named pipe would wait forever.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageUnreadable(f"{name}: this is a folder. Give the path of an image file.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageUnreadable(f"{name}: not a regular file. Give the path of an image file.")
        _check_bytes(status.st_size, name, limits)
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageUnreadable(f"{name}: no such file (looked in {_shown(str(Path.cwd()))}).") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a valid path"
        raise ImageUnreadable(f"{name}: cannot be read ({reason.lower()}).") from error
    _check_bytes(len(data), name, limits)
    return data


def _read_url(url: str, scheme: str, allow_url: bool, limits: ImageLimits, policy: UrlPolicy | None) -> bytes:
    if scheme not in ("http", "https"):
        raise ImageUrlRefused(f"{_shown(url)}: {scheme}: URLs are not supported. Give a path or an http(s) URL.")
    if not allow_url:
        raise ImageUrlRefused(
            f"{_shown(url)}: fetching images from URLs is switched off. Download the image and give its path, "
            "or send it as a data URI."
        )
    from llava.images.fetching import UrlPolicy, fetch

    return fetch(url, policy=policy or UrlPolicy(), max_bytes=limits.max_bytes)


def read_data_uri(uri: str, name: str, limits: ImageLimits) -> bytes:
    """Returns the bytes of a data URI. What it declares about them is ignored: the bytes say what they are.

    Raises:
        ImageDamaged: no data URI, or not valid base64.
        ImageTooLarge: more bytes than allowed.
    """
    head, comma, body = uri.strip().partition(",")
    if not comma:
        raise ImageDamaged(f"{name}: there is no comma between header and data. Write data:image/png;base64,<data>.")
    if not re.search(r";\s*base64\s*$", head, re.IGNORECASE):
        _check_bytes(len(body) // 3, name, limits)
        return urllib.parse.unquote_to_bytes(body)
    return read_base64(body, name, limits)


def read_base64(text: str, name: str, limits: ImageLimits) -> bytes:
    """Returns the bytes of base64 text of either alphabet, with or without padding, blanks, line ends and `%2B`.

    Raises:
        ImageDamaged: not valid base64; the message has the character at fault.
        ImageTooLarge: more bytes than allowed.
    """
    _check_bytes(len(text) * 3 // 4 - 2, name, limits)
    if "%" in text:
        text = urllib.parse.unquote(text)
    text = re.sub(r"\s+", "", text).rstrip("=").translate(_URL_ALPHABET)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        wrong = re.search(r"[^A-Za-z0-9+/]", text)
        where = f"character {wrong[0]!a} at position {wrong.start()}" if wrong else "the length is wrong"
        raise ImageDamaged(f"{name}: not valid base64 ({where}).") from error


# Limits


def _check_bytes(count: int, name: str, limits: ImageLimits) -> None:
    if count > limits.max_bytes:
        raise ImageTooLarge(
            f"{name}: {readable_bytes(count)}, the limit is {readable_bytes(limits.max_bytes)}. Compress or resize it."
        )


def _check_dimensions(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
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


def _shown(name: str) -> str:
    """Makes a name safe for a line of a message or log: no credentials, no control characters, at most 200 long."""
    if "://" in name:
        name = re.sub(r"://[^/@\s]*@", "://", name).split("?", 1)[0]
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return printable if len(printable) <= 200 else f"{printable[:120]}…{printable[-60:]}"
