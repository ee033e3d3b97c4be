"""The one way an image enters the program: any source in, an upright 8-bit RGB image or a typed error out.

Everything here is untrusted: size, kind and dimensions are checked before a pixel is decoded, decoders are named one by
one (Pillow is never asked to guess), and messages are ours, never a decoder's. Nothing global of Pillow is touched, so
any number of threads may load at once.
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
from llava.images.formats import decoder_errors, describe_damage, readable_bytes, recognise

if TYPE_CHECKING:
    from PIL import Image

    from llava.images.fetching import UrlPolicy

ImageSource = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], "Image.Image"]

MAX_PIXELS_VARIABLE: Final = "LLAVA_MAX_IMAGE_PIXELS"
DEFAULT_MAX_PIXELS: Final = 50_000_000


def _max_pixels() -> int:
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if not text:
        return DEFAULT_MAX_PIXELS
    if not text.isdecimal() or int(text) < 1:
        raise InvalidRequest(
            f"{MAX_PIXELS_VARIABLE}={text!r}: write a whole number of pixels, such as {DEFAULT_MAX_PIXELS}."
        )
    return int(text)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may cost. All three are checked before decoding.

    Decoding takes for a moment up to 10 bytes of memory a pixel beyond the file itself (grey with alpha 14, WebP 18):
    half a gigabyte at the default of 50 megapixels.
    """

    max_bytes: int = 64 * 1024 * 1024
    """Size of the encoded file."""
    max_pixels: int = field(default_factory=_max_pixels)
    """Width times height; the environment variable LLAVA_MAX_IMAGE_PIXELS sets another default."""
    max_side: int = 65_535
    """Longer side, in pixels. Any aspect ratio within it is read."""


def load_image(
    source: ImageSource,
    *,
    allow_url: bool = False,
    allow_path: bool = True,
    limits: ImageLimits | None = None,
    url_policy: UrlPolicy | None = None,
) -> Image.Image:
    """Reads one image as it should be seen: upright, first frame, 8-bit RGB.

    Reads PNG, JPEG, WebP, GIF, BMP and TIFF, whatever the file is called. The EXIF orientation is applied; transparency
    is laid on white, as viewers show it (dropping it, as a bare `convert("RGB")` does, turns black writing on a
    transparent ground into a black image); 16-bit and floating grey is scaled, not clipped; of an animation the first
    frame counts. Opaque RGB and grey images keep their exact values.

    Args:
        source: path, bytes, open binary file, data URI, Pillow image, or http(s) address.
        allow_url: fetch an http(s) address; without it an address is refused.
        allow_path: open files of this machine; a server passes False for what a client sent.
        limits: bytes, pixels and side allowed; `ImageLimits()` if None.
        url_policy: where an address may lead and how long it may take; `UrlPolicy()` (public addresses only) if None.

    Returns:
        A loaded image of mode RGB that needs neither file nor source any more.

    Raises:
        ImageUnreadable: no such file, a folder, no permission.
        ImageTooLarge: over one of the limits; nothing was decoded.
        UnsupportedImage: not an image, or of a kind that is not read; the message says what it looks like.
        ImageDamaged: ends early or contradicts itself.
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
            raise ImageDamaged(f"{name}: damaged or cut short; it cannot be decoded.") from error
    data, name = read_encoded(source, allow_url=allow_url, allow_path=allow_path, limits=limits, url_policy=url_policy)
    return decode_image(data, name=name, limits=limits)


def load_image_from_base64(image: str | bytes, *, limits: ImageLimits | None = None) -> Image.Image:
    """Reads an image from base64 text, with or without a `data:` prefix; same result and errors as `load_image`."""
    limits = limits or ImageLimits()
    if isinstance(image, bytes):
        image = image.decode("ascii", errors="replace")
    if image.startswith("data:"):
        return load_image(image, allow_path=False, limits=limits)
    return decode_image(_decode_base64(image, "base64 image", limits), name="base64 image", limits=limits)


def decode_image(data: bytes, *, name: str = "image", limits: ImageLimits | None = None) -> Image.Image:
    """Decodes encoded bytes; `name` is what messages call them. See `load_image` for result and errors."""
    limits = limits or ImageLimits()
    _check_bytes(len(data), name, limits)
    kind = recognise(data, name)
    size = kind.header_size(data) if kind.header_size else None
    if size is not None:
        _check_dimensions(size, name, limits)
    try:
        image = kind.open(data)
        _check_dimensions(image.size, name, limits)
        unit = kind.unit_size(image) if kind.unit_size else None
        if unit is not None:
            _check_dimensions(unit, name, limits)
        image.load()
        rgb = to_rgb(image)
    except MemoryError as error:
        raise ImageTooLarge(f"{name}: this machine has not enough memory to decode it. Resize the image.") from error
    except decoder_errors() as error:
        raise ImageDamaged(describe_damage(data, name, kind)) from error
    # An image of its own: the decoder's would keep the encoded file, and carry place and owner from its metadata.
    rgb = rgb.copy() if rgb is image else rgb
    rgb.info = {}
    return rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright 8-bit RGB copy of any Pillow image (itself if it already is one): transparency on white."""
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in ("La", "RGBa"):  # premultiplied modes convert to RGBA only through their straight counterpart
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
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


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except decoder_errors():
        # Broken metadata do not spoil the image; viewers ignore them too.
        return image
    if turn is None:
        return image
    upright = image.transpose(Image.Transpose[turn])
    # The copy would keep the note that says "turn me", and be turned again by whoever reads it next.
    upright.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return upright


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits: 16-bit values by their full range, others by the range that they seem to mean."""
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
    for row, line in enumerate(values):  # row by row: a copy of the whole in floats would take four times the memory
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
    """The encoded bytes of an image that is not decoded yet, and what messages call it; see `load_image`."""
    limits = limits or ImageLimits()
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(memoryview(source).nbytes, "image", limits)
        return bytes(source), "image"
    if isinstance(source, str):
        scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.\-]*):(?://)?", source.lstrip())
        if scheme and scheme[1].lower() == "data":
            return _read_data_uri(source.strip(), limits), "data URI"
        if scheme and scheme[0].endswith("://"):
            return _read_url(source.strip(), scheme[1].lower(), allow_url, limits, url_policy), _shown(source)
    if isinstance(source, (str, os.PathLike)):
        if not allow_path:
            raise ImageUnreadable("file names are not accepted here: send the image as a data URI.")
        return _read_file(Path(os.fspath(source)), limits), _shown(str(source))
    if hasattr(source, "read"):
        name = _shown(str(getattr(source, "name", "open file")))
        data = source.read(limits.max_bytes + 1)
        if not isinstance(data, bytes):
            raise ImageUnreadable(f"{name}: opened as text. Open it in binary mode: open(path, 'rb').")
        _check_bytes(len(data), name, limits)
        return data, name
    raise UnsupportedImage(
        f"{type(source).__name__} is no image source: give a path, bytes, an open binary file, a data URI, "
        "an http(s) address or a Pillow image."
    )


def _read_file(path: Path, limits: ImageLimits) -> bytes:
    name = _shown(str(path))
    try:
        # Asked before opening: opening a named pipe would wait for ever.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageUnreadable(f"{name} is a folder. Give the path of one image file.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageUnreadable(f"{name} is no regular file. Give the path of one image file.")
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
        raise ImageUrlRefused(
            f"{_shown(url)}: {scheme}: addresses are never opened. Give a path or an http(s) address."
        )
    if not allow_url:
        raise ImageUrlRefused(
            f"{_shown(url)}: fetching images by address is switched off. Download the image and give its path, "
            "or send it as a data URI."
        )
    from llava.images.fetching import UrlPolicy, fetch

    return fetch(url, policy=policy or UrlPolicy(), max_bytes=limits.max_bytes)


def _read_data_uri(uri: str, limits: ImageLimits) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma:
        raise ImageDamaged("data URI: no comma between header and data. Write data:image/png;base64,<data>.")
    if not head.lower().endswith(";base64"):
        _check_bytes(len(body) // 3, "data URI", limits)
        return urllib.parse.unquote_to_bytes(body)
    return _decode_base64(body, "data URI", limits)


def _decode_base64(text: str, name: str, limits: ImageLimits) -> bytes:
    _check_bytes(len(text) * 3 // 4 - 2, name, limits)
    if "%" in text:
        text = urllib.parse.unquote(text)
    text = re.sub(r"\s+", "", text).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        wrong = re.search(r"[^A-Za-z0-9+/]", text)
        where = f"character {wrong[0]!a} at position {wrong.start()}" if wrong else "its length fits no number of bytes"
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
        raise ImageDamaged(f"{name}: its header says {width} x {height} pixels; an image needs at least 1 x 1.")
    if max(width, height) > limits.max_side:
        raise ImageTooLarge(
            f"{name}: {width} x {height} pixels, the longer side may have {limits.max_side}. Resize it."
        )
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"{name}: {width} x {height} is {width * height / 1e6:.1f} megapixels, the limit is "
            f"{limits.max_pixels / 1e6:.1f}. Resize the image, or raise {MAX_PIXELS_VARIABLE}."
        )


def _shown(name: str) -> str:
    """A name fit for one line of a message or a log: no secrets of an address, no control characters, not endless."""
    if "://" in name:
        name = re.sub(r"://[^/@\s]*@", "://", name).split("?", 1)[0]
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return printable if len(printable) <= 200 else f"{printable[:120]}…{printable[-60:]}"
