"""The images of a request: from what a client sent to checked bytes or decoded images, off the event loop.

Nothing is read from disk on a request's word, and nothing fetched unless the operator named the host.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from llava.errors import ImageDamaged, ImageShapeError, ImageTooLarge, ImageUrlRefused, UnsupportedImage
from llava.images.formats import MEDIA_TYPES, decoder_errors, recognise
from llava.images.loading import ImageLimits, decode_image

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

MAX_ASPECT: Final = 200
"""Longer side by shorter side."""
_PIXELS_A_REQUEST: Final = 2
"""How many times the largest single image all images of one request may have together."""

_DATA_URI: Final = re.compile(r"data:(?P<media>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*:")
_ALIASES: Final = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image's own bytes, of a kind that is taken; not decoded yet."""

    data: bytes
    media_type: str
    name: str
    """What messages call it."""
    num_pixels: int
    """By its header."""

    def as_data_uri(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass
class ImageReader:
    """Reads the images of requests in a few threads of its own, so that a heavy one delays images and no stream."""

    allowed_hosts: frozenset[str] = frozenset()
    """Host names that http(s) addresses may have; none by default."""
    limits: ImageLimits = field(default_factory=lambda: ImageLimits(max_bytes=20 * 1024 * 1024))
    time_limit_s: float = 30.0
    """For all images of one request together, waiting included."""
    num_threads: int = 2
    on_decoded: Callable[[float], None] = lambda seconds: None
    """Told how long each image took."""

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="images")

    async def read(self, sources: Sequence[tuple[str, str]]) -> list[EncodedImage]:
        """The bytes of a request's images, checked as far as that costs no decoding.

        Args:
            sources: what the client sent (data URI, base64 text or address) and what to call it in messages.

        Raises:
            ImageError: the first one that is wrong, by name; or all together are too large.
        """
        images = await self._run(self._read, sources)
        num_pixels = sum(image.num_pixels for image in images)
        if num_pixels > _PIXELS_A_REQUEST * self.limits.max_pixels:
            raise ImageTooLarge(
                f"the images have {num_pixels / 1e6:.0f} megapixels together, the limit is "
                f"{_PIXELS_A_REQUEST * self.limits.max_pixels / 1e6:.0f}. Resize them."
            )
        return images

    async def decode(self, images: Sequence[EncodedImage]) -> list[Image.Image]:
        """The images themselves, upright and RGB.

        Raises:
            ImageError: the first one that is damaged, by name.
        """
        return await self._run(self._decode, [(image,) for image in images])

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        loop = asyncio.get_running_loop()
        tasks = [loop.run_in_executor(self._pool, work, *each) for each in arguments]
        try:
            return list(await asyncio.wait_for(asyncio.gather(*tasks), self.time_limit_s))
        except asyncio.TimeoutError as error:
            raise ImageTooLarge(
                f"the images were not read within {self.time_limit_s:g} s. Send smaller ones, or try again later."
            ) from error
        finally:
            for task in tasks:
                task.cancel()

    def _read(self, source: str, name: str) -> EncodedImage:
        source = source.strip()
        header = _DATA_URI.match(source)
        declared = None
        if header:
            data = self._base64(source[header.end() :], name)
            declared = header["media"]
        elif source[:5].lower() == "data:":
            raise ImageDamaged(f"{name}: not an image's data URI. Write data:image/png;base64,<data>.")
        elif _ADDRESS.match(source):
            data = self._fetch(source, name)
        else:
            data = self._base64(source, name)
        label = recognise(data, name).label
        if label not in MEDIA_TYPES:
            raise UnsupportedImage(f"{name}: {label} images are not taken here. Send {', '.join(MEDIA_TYPES)}.")
        media_type = MEDIA_TYPES[label]
        if declared is not None and _ALIASES.get(declared.lower(), declared.lower()) != media_type:
            raise ImageDamaged(f"{name}: the data URI says {declared[:40]}, its data are {media_type}.")
        return EncodedImage(data, media_type, name, self._num_pixels(data, name))

    def _decode(self, encoded: EncodedImage) -> Image.Image:
        began_s = time.monotonic()
        image = decode_image(encoded.data, name=encoded.name, limits=self.limits)
        self.on_decoded(time.monotonic() - began_s)
        return image

    def _num_pixels(self, data: bytes, name: str) -> int:
        """Width times height by the image's header, whose proportions are checked too."""
        kind = recognise(data, name)
        try:
            width, height = (kind.header_size(data) if kind.header_size else None) or kind.open(data).size
        except decoder_errors() as error:
            raise ImageDamaged(f"{name}: damaged or cut short; it cannot be decoded.") from error
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ImageShapeError(
                f"{name}: {width} x {height} pixels; one side may be {MAX_ASPECT} times the other. Crop it."
            )
        if width * height > self.limits.max_pixels:
            raise ImageTooLarge(
                f"{name}: {width * height / 1e6:.0f} megapixels, the limit is {self.limits.max_pixels / 1e6:.0f}. "
                "Resize the image."
            )
        return width * height

    def _base64(self, text: str, name: str) -> bytes:
        if len(text) * 3 // 4 - 2 > self.limits.max_bytes:
            raise ImageTooLarge(f"{name}: more than {self.limits.max_bytes / 2**20:.0f} MiB. Compress or resize it.")
        try:
            return base64.b64decode(re.sub(r"[\r\n]", "", text), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageDamaged(
                f"{name}: not valid base64. Send a data URI such as data:image/png;base64,<data>."
            ) from error

    def _fetch(self, address: str, name: str) -> bytes:
        if not self.allowed_hosts or not address.lower().startswith(("http://", "https://")):
            raise ImageUrlRefused(
                f"{name}: images are not fetched by address here. Send the image as a data URI: "
                "data:image/png;base64,<data>."
            )
        from llava.images.fetching import UrlPolicy, fetch

        return fetch(address, policy=UrlPolicy(allowed_hosts=self.allowed_hosts), max_bytes=self.limits.max_bytes)
