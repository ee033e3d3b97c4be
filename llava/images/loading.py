"""Loads an image from any source as an upright 8-bit RGB image in sRGB, or raises a typed error.

All images in the program are loaded here, and all are untrusted: size, format and dimensions are checked before a pixel
is decoded, each format has one fixed decoder, and error messages never quote a decoder. Pillow's global settings stay
untouched, so any number of threads can load images at once.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Union

from llava.errors import ImageDamaged, ImageUnreadable, ImageUrlRefused, UnsupportedImage
from llava.images.data_uris import check_bytes, is_data_uri, read_base64, read_data_uri
from llava.images.formats import decoder_errors, recognise
from llava.images.headers import ImageLimits, check_dimensions, damage_named, open_file, open_image, shown_name
from llava.images.pixels import correct_transparency, to_rgb

if TYPE_CHECKING:
    from PIL import Image

    from llava.images.fetching import UrlPolicy

ImageSource = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], "Image.Image"]


def load_image(
    source: ImageSource,
    *,
    allow_url: bool = False,
    allow_path: bool = True,
    limits: ImageLimits | None = None,
    url_policy: UrlPolicy | None = None,
) -> Image.Image:
    """Loads an image upright, as 8-bit RGB.

    Supports PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP and TIFF, whatever the file name or declared type. Images come out
    upright, whether EXIF or the format itself says how. Colours are converted to sRGB if the image has another profile.
    Transparent images are drawn on white, as viewers do, because a plain `convert("RGB")` would turn black text on a
    transparent background into a black image. 16-bit and floating-point grey is scaled, not clipped. Animations give
    their first frame. Opaque RGB and grey images without a profile, or with that of sRGB, keep their exact values.

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
        name = shown_name(str(getattr(source, "filename", "") or "image"))
        check_dimensions(source.size, name, limits)
        try:
            correct_transparency(source)
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
    if is_data_uri(image):
        return load_image(image, allow_path=False, limits=limits)
    return decode_image(read_base64(image, "base64 image", limits.max_bytes), name="base64 image", limits=limits)


def decode_image(data: bytes, *, name: str = "image", limits: ImageLimits | None = None) -> Image.Image:
    """Decodes an encoded image called `name` in messages; result and errors are those of `load_image`."""
    image = open_image(data, name, limits or ImageLimits())
    with damage_named(data, name, recognise(data, name)):
        correct_transparency(image)
        image.load()
        rgb = to_rgb(image)
    # The decoder's image would keep the encoded file in memory, and metadata such as the place where it was taken.
    rgb = rgb.copy() if rgb is image else rgb
    rgb.info = {}
    return rgb


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
        check_bytes(memoryview(source).nbytes, "image", limits.max_bytes)
        return bytes(source), "image"
    if isinstance(source, str):
        if is_data_uri(source):
            return read_data_uri(source, "data URI", limits.max_bytes), "data URI"
        scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.\-]*)://", source.lstrip())
        if scheme:
            return _read_url(source.strip(), scheme[1].lower(), allow_url, limits, url_policy), shown_name(source)
    if isinstance(source, (str, os.PathLike)):
        if not allow_path:
            raise ImageUnreadable("file names are not accepted here. Send the image as a data URI.")
        return _read_file(Path(os.fspath(source)), limits), shown_name(str(source))
    if hasattr(source, "read"):
        name = shown_name(str(getattr(source, "name", "open file")))
        data = source.read(limits.max_bytes + 1)
        if not isinstance(data, bytes):
            raise ImageUnreadable(f"{name}: the file is open in text mode. Open it in binary mode: open(path, 'rb').")
        check_bytes(len(data), name, limits.max_bytes)
        return data, name
    raise UnsupportedImage(
        f"cannot load an image from a {type(source).__name__}. Pass a path, bytes, an open binary file, a data URI, "
        "an http(s) URL or a Pillow image."
    )


def _read_file(path: Path, limits: ImageLimits) -> bytes:
    name = shown_name(str(path))
    with open_file(path, name, limits) as file:
        try:
            data = file.read(limits.max_bytes + 1)
        except OSError as error:
            raise ImageUnreadable(
                f"{name}: cannot be read ({(error.strerror or 'no reason given').lower()})."
            ) from error
    check_bytes(len(data), name, limits.max_bytes)  # the file may have grown
    return data


def _read_url(url: str, scheme: str, allow_url: bool, limits: ImageLimits, policy: UrlPolicy | None) -> bytes:
    if scheme not in ("http", "https"):
        raise ImageUrlRefused(f"{shown_name(url)}: {scheme}: URLs are not supported. Give a path or an http(s) URL.")
    if not allow_url:
        raise ImageUrlRefused(
            f"{shown_name(url)}: fetching images from URLs is switched off. Download the image and give its path, "
            "or send it as a data URI."
        )
    from llava.images.fetching import UrlPolicy, fetch

    return fetch(url, policy=policy or UrlPolicy(), max_bytes=limits.max_bytes)
