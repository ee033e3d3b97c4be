"""A request to the engine: a prompt, its images, and how to answer."""

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
    prompt: str
    """In the words of the checkpoint's template, with one `<image>` an image."""
    images: tuple[Image.Image, ...] = ()
    """As `llava.mm_utils.load_image` returns them, in reading order."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it; found across tokens, never shown in part."""
    prefixes: tuple[str, ...] = ()
    """Texts to drop where the answer begins with them, such as the assistant's role name."""
    request_id: str | None = None
    """For logs."""

    def __post_init__(self) -> None:
        found = self.prompt.count(DEFAULT_IMAGE_TOKEN)
        if found != len(self.images):
            raise ImageTokenMismatch(
                f"the prompt has {found} {DEFAULT_IMAGE_TOKEN} markers for {len(self.images)} images."
            )
