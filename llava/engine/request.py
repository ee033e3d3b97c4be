"""Defines a request to the engine: a prompt, its images, and how to answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import ImageTokenMismatch
from llava.text_generation.settings import Sampling

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Request:
    """A request for one answer.

    Raises:
        ImageTokenMismatch: the number of markers in the prompt differs from the number of images.
    """

    prompt: str
    """The prompt in the checkpoint's template, with one `<image>` marker per image."""
    images: tuple[Image.Image, ...] = ()
    """Images in reading order, as `llava.mm_utils.load_image` returns them."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are chosen."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it; they are found across tokens and never shown in part."""
    prefixes: tuple[str, ...] = ()
    """Texts to drop from the beginning of the answer, such as the assistant's role name."""
    request_id: str | None = None
    """An id for log messages."""

    def __post_init__(self) -> None:
        found = self.prompt.count(DEFAULT_IMAGE_TOKEN)
        if found != len(self.images):
            raise ImageTokenMismatch(
                f"the prompt has {found} {DEFAULT_IMAGE_TOKEN} markers for {len(self.images)} images."
            )
