"""Says what to check of a training file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """What to check, and how to report it."""

    file: Path
    """The training file."""
    image_folder: Path
    """Folder that the image paths are relative to."""
    version: str = "v0"
    """Training template."""
    opens_images: bool = False
    """Whether to open every image."""
    allows_outside_images: bool = False
    """Whether image paths may lead out of the image folder."""
    lists_all: bool = False
    """Whether to list every finding."""
    output: Path | None = None
    """File to write the report to."""
    model: str | None = None
    """Folder or hub id of the model whose tokenizer counts lengths; None counts none."""
    vision_tower: str | None = None
    """Folder or hub id of the vision tower; None takes the model's own."""
    start_end: bool = False
    """Whether images stand between `<im_start>` and `<im_end>`."""
    aspect_ratio: str | None = None
    """How images are fitted to the tower; None takes the model's own setting."""
    max_length: int = 2048
    """Longest sequence in tokens."""
    plot: Path | None = None
    """File to draw the histogram of lengths to."""
    sample: int | None = None
    """Position of a record to show."""
