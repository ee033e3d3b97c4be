"""Opens all images of a training file, in parallel."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

from llava.train.data.record_checks import RecordFinding
from llava.train.data.records import Record

_TIMEOUT_S = 60
"""Longest time for one image; a file that takes longer would hold a training step up as well."""
_EXTREME = 20
"""Aspect ratio from which an image is almost a line."""
_PROGRESS_EVERY_S = 5.0
_PROGRESS_AFTER_S = 0.3


@dataclass(slots=True)
class ImageResults:
    """What was found."""

    findings: list[RecordFinding] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    """`opened`, `failed`, and the number of images by their larger side."""

    def describe(self) -> str:
        """Describes the results in one line."""
        sizes = ", ".join(f"{number:,} up to {side}" for side, number in self.summary["larger_side"].items())
        return (
            f"{self.summary['opened']:,} opened, {self.summary['failed']:,} failed; pixels of the larger side: {sizes}"
        )


def check_images(records: Sequence[Record], folder: Path, *, skip: set[str]) -> ImageResults:
    """Opens every distinct image once.

    Args:
        folder: folder that the image paths are relative to.
        skip: texts of findings about images that do not exist.
    """
    first: dict[str, str] = {}
    for record in records:
        for image in record.images:
            if f"image {folder / image} does not exist" not in skip:
                first.setdefault(image, record.name)
    results, sizes, failed = ImageResults(), Counter[int](), 0
    for image, outcome in _progress(_opened(folder, list(first)), len(first)):
        if isinstance(outcome, str):
            failed += 1
            results.findings.append(RecordFinding("images that cannot be read", first[image], outcome, is_error=True))
            continue
        width, height = outcome
        sizes[max(256, 1 << (max(width, height) - 1).bit_length())] += 1
        if min(width, height) == 1 or max(width, height) >= _EXTREME * min(width, height):
            text = f"image {folder / image} has {width} x {height} pixels"
            results.findings.append(RecordFinding("images of an extreme shape", first[image], text))
    results.summary = {"opened": len(first) - failed, "failed": failed, "larger_side": dict(sorted(sizes.items()))}
    return results


def _opened(folder: Path, images: list[str]) -> Iterator[tuple[str, tuple[int, int] | str]]:
    paths = [str(folder / image) for image in images]
    workers = min(os.cpu_count() or 1, max(1, len(paths) // 50))
    if workers == 1:
        yield from zip(images, map(_open, paths), strict=True)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from zip(images, pool.map(_open, paths, chunksize=16), strict=True)


def _open(path: str) -> tuple[int, int] | str:
    """Returns the (width, height) of an image that training could use, else why not."""
    from llava.errors import ImageError
    from llava.mm_utils import load_image

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_TIMEOUT_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_image(path).size
    except TimeoutError:
        return f"{path}: takes more than {_TIMEOUT_S} s to read"
    except (ImageError, OSError) as error:
        return str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _progress(outcomes: Iterator[Any], total: int) -> Iterator[Any]:
    started = time.monotonic()
    due = started + _PROGRESS_AFTER_S
    for number, outcome in enumerate(outcomes):
        if time.monotonic() >= due:
            due = time.monotonic() + _PROGRESS_EVERY_S
            print(f"opened {number:,} of {total:,} images", flush=True)
        yield outcome
