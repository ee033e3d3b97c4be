"""Reads the images of requests: checks and decodes them without blocking the event loop.

A request can never make it read a file, and makes it fetch an image only from a host that the operator allows.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from llava.errors import ImageDamaged, ImageShapeError, ImageTooLarge, ImageUrlRefused, UnsupportedImage
from llava.images.data_uris import is_data_uri, read_base64, read_data_uri
from llava.images.formats import MEDIA_TYPES, recognise
from llava.images.headers import ImageLimits, open_image, portable_type
from llava.images.loading import decode_image

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

MAX_ASPECT: Final = 200
"""Largest ratio of the longer to the shorter side."""
_REQUEST_PIXELS: Final = 2
"""Limit of all images of a request together, as a multiple of the limit of one image."""

_ADDRESS: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*:")
_QUALITY: Final = 95
"""JPEG quality of an image that is encoded anew."""
_LOSSY: Final = frozenset(("image/jpeg", "image/webp", "image/avif", "image/heic"))
_MAX_PNG_PIXELS: Final = 4_000_000
"""Encoding a larger image as PNG takes seconds."""
_LONGEST_PATH: Final = 260
"""Characters; base64 of an image is longer."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The bytes of an image in an accepted format, not decoded yet."""

    data: bytes
    media_type: str
    name: str
    """The name of the image in error messages."""
    num_pixels: int
    """Width times height according to its header."""

    def as_data_uri(self) -> str:
        """Returns the image as a data URI."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass
class ImageReader:
    """Reads the images of requests on threads of its own, so that a large image delays other images but no stream."""

    allowed_hosts: frozenset[str] = frozenset()
    """Hosts from which images may be fetched, in lower case."""
    limits: ImageLimits = field(default_factory=lambda: ImageLimits(max_bytes=20 * 1024 * 1024))
    """Limits of each image."""
    time_limit_s: float = 30.0
    """Seconds for reading all images of a request, including the wait for a thread."""
    num_threads: int = 2
    """Number of images read at once."""
    on_decoded: Callable[[float], None] = lambda seconds: None
    """Called with the seconds that decoding an image took."""

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="images")

    async def read(self, sources: Sequence[tuple[str, str]]) -> list[EncodedImage]:
        """Returns the bytes of a request's images, after all checks that are possible without decoding.

        Args:
            sources: for each image, what the client sent (data URI, base64 text or address) and its name in messages.

        Raises:
            ImageError: names the first invalid image, or says that all images together are too large.
        """
        images = await self._run(self._read, sources)
        num_pixels = sum(image.num_pixels for image in images)
        if num_pixels > _REQUEST_PIXELS * self.limits.max_pixels:
            raise ImageTooLarge(
                f"the images of the request have {num_pixels / 1e6:.0f} megapixels in total; the limit is "
                f"{_REQUEST_PIXELS * self.limits.max_pixels / 1e6:.0f}. Resize them."
            )
        return images

    async def decode(self, images: Sequence[EncodedImage]) -> list[Image.Image]:
        """Returns the decoded images, upright and in RGB.

        Raises:
            ImageError: names the first damaged image.
        """
        return await self._run(self._decode, [(image,) for image in images])

    async def portable(self, images: Sequence[EncodedImage]) -> list[EncodedImage]:
        """Returns the images in formats that every service accepts; only those in others are encoded anew.

        Raises:
            ImageError: names the first damaged image.
        """
        return await self._run(self._portable, [(image,) for image in images])

    def close(self) -> None:
        """Ends the threads; images that are waiting are not read any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        loop = asyncio.get_running_loop()
        tasks = [loop.run_in_executor(self._pool, work, *each) for each in arguments]
        try:
            return list(await asyncio.wait_for(asyncio.gather(*tasks), self.time_limit_s))
        except asyncio.TimeoutError as error:
            raise ImageTooLarge(
                f"the images could not be read within {self.time_limit_s:g} s. Send smaller images, or try again later."
            ) from error
        finally:
            for task in tasks:
                task.cancel()

    def _read(self, source: str, name: str) -> EncodedImage:
        source = source.strip()
        if is_data_uri(source):
            data = read_data_uri(source, name, self.limits.max_bytes)
        elif _ADDRESS.match(source):
            data = self._fetch(source, name)
        else:
            data = self._bare_base64(source, name)
        label = recognise(data, name).label
        media_type = MEDIA_TYPES.get(label, f"image/{label.lower()}")
        return EncodedImage(data, media_type, name, self._num_pixels(data, name))

    def _bare_base64(self, text: str, name: str) -> bytes:
        try:
            data = read_base64(text, name, self.limits.max_bytes)
            recognise(data, name)
        except (ImageDamaged, UnsupportedImage) as error:
            if len(text) < _LONGEST_PATH and re.search(r"[/\\.]", text):  # it may be meant as a file name
                raise type(error)(f"{error} File names are not read here: send a data URI.") from error
            raise
        return data

    def _portable(self, image: EncodedImage) -> EncodedImage:
        if portable_type(image.data, image.name, self.limits) is not None:
            return image
        decoded = self._decode(image)
        file = io.BytesIO()
        lossless = image.media_type not in _LOSSY and decoded.width * decoded.height <= _MAX_PNG_PIXELS
        kind = "PNG" if lossless else "JPEG"
        decoded.save(file, kind, **({} if lossless else {"quality": _QUALITY}))
        return replace(image, data=file.getvalue(), media_type=MEDIA_TYPES[kind])

    def _decode(self, encoded: EncodedImage) -> Image.Image:
        began_s = time.monotonic()
        image = decode_image(encoded.data, name=encoded.name, limits=self.limits)
        self.on_decoded(time.monotonic() - began_s)
        return image

    def _num_pixels(self, data: bytes, name: str) -> int:
        """Returns width times height according to the image's header, after checking limits and proportions."""
        width, height = open_image(data, name, self.limits).size
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ImageShapeError(
                f"{name}: the image has {width} x {height} pixels; one side may be at most {MAX_ASPECT} times the "
                "other. Crop it."
            )
        return width * height

    def _fetch(self, address: str, name: str) -> bytes:
        if not self.allowed_hosts or not address.lower().startswith(("http://", "https://")):
            raise ImageUrlRefused(
                f"{name}: images are not fetched from this address. Send the image as a data URI: "
                "data:image/png;base64,<data>."
            )
        from llava.images.fetching import UrlPolicy, fetch

        return fetch(address, policy=UrlPolicy(allowed_hosts=self.allowed_hosts), max_bytes=self.limits.max_bytes)
