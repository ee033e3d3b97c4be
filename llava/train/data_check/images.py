"""Opens all images of a training file, in parallel."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.train.data.record_checks import RecordFinding
from llava.train.data.records import Record
from llava.train.data_check.image_processes import Opener, Outcome, open_all
from llava.train.data_check.progress import ProgressReport

_TIMEOUT_S = 60.0
"""Longest time for one image; a file that takes longer would hold a training step up as well."""
_EXTREME = 20
"""Aspect ratio from which an image is almost a line."""
_PER_PROCESS = 50
"""Images for which another process is worth its start."""


@dataclass(slots=True)
class ImageResults:
    """What was found."""

    findings: list[RecordFinding] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    """Paths, as in the records, of the images that training cannot read."""
    summary: dict[str, Any] = field(default_factory=dict)
    """`opened`, `failed`, and the number of images by their larger side."""

    def describe(self) -> str:
        """Describes the results in one line."""
        opened, failed = self.summary["opened"], self.summary["failed"]
        sizes = ", ".join(f"{number:,} up to {side}" for side, number in self.summary["larger_side"].items())
        return f"{opened:,} opened, {failed:,} failed" + (f"; pixels of the larger side: {sizes}" if sizes else "")


def check_images(
    records: Sequence[Record],
    folder: Path,
    *,
    skip: set[str],
    opener: Opener | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> ImageResults:
    """Opens every distinct image once.

    Args:
        folder: folder that the image paths are relative to.
        skip: paths of images that do not exist.
        opener: opens an image; None uses what training uses.
        timeout_s: longest time for one image.
    """
    users: dict[str, list[str]] = {}
    for record in records:
        for image in dict.fromkeys(record.images):
            if image not in skip:
                users.setdefault(image, []).append(record.name)
    outcomes = _open_images(folder, list(users), opener or open_image, timeout_s)
    results, sizes = ImageResults(), Counter[int]()
    for image, names in users.items():
        outcome = outcomes[image]
        others = f" ({len(names) - 1:,} more records have it)" if len(names) > 1 else ""
        if isinstance(outcome, str):
            results.unreadable.add(image)
            results.findings.append(
                RecordFinding("images that cannot be read", names[0], f"{outcome}{others}", is_error=True)
            )
            continue
        width, height = outcome
        sizes[max(256, 1 << (max(width, height) - 1).bit_length())] += 1
        if min(width, height) == 1 or max(width, height) >= _EXTREME * min(width, height):
            text = f"image {folder / image} has {width} x {height} pixels{others}"
            results.findings.append(RecordFinding("images of an extreme shape", names[0], text))
    failed = len(results.unreadable)
    results.summary = {"opened": len(users) - failed, "failed": failed, "larger_side": dict(sorted(sizes.items()))}
    return results


def _open_images(folder: Path, images: list[str], opener: Opener, timeout_s: float) -> dict[str, Outcome]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, -(-len(images) // _PER_PROCESS))
    image_of = {str(folder / image): image for image in images}
    outcomes, progress = {}, ProgressReport("opened", len(image_of), "images")
    for path, outcome in open_all(list(image_of), opener, workers=workers, timeout_s=timeout_s):
        outcomes[path] = outcome
        progress.show(len(outcomes))
    # Paths that are written differently, such as a.png and ./a.png, may be the same one.
    return {image: outcomes[str(folder / image)] for image in images}


def open_image(path: str) -> Outcome:
    """Returns the (width, height) of an image that training could use, else why not."""
    from llava.errors import ImageError
    from llava.images.loading import load_image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_image(path).size
    except (ImageError, OSError) as error:
        return str(error)
    except MemoryError:
        return f"{path}: there is not enough memory to decode it"
