"""Reads what a judge, who sees no images, is told about them: captions and boxes, or one caption."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import Joined, locate, read_answers
from llava.files.json_files import Line

ContextForm = Literal["none", "boxes", "caption"]

_COCO_PREFIX: Final = re.compile(r"COCO_(?:train|val|test)20\d\d_")
_REMEDY: Final = "`llava eval get-data` downloads the original's file; docs/gpt-review.md describes the format."


@dataclass(frozen=True, slots=True)
class Contexts:
    """A context file."""

    path: Path
    form: ContextForm
    lines: Mapping[str, Line]
    """The records, by `image_name`."""

    def text(self, questions: Joined, identity: str) -> str:
        """Returns what the judge reads about the image of a question.

        Raises:
            DataError: the question names no image, or the file lacks the image or has a malformed record of it.
        """
        name = image_name(questions.text(identity, "image"))
        if name not in self.lines:
            raise DataError(f"{questions.place(identity)}: its image {name} is not in {self.path}.")
        number, record = self.lines[name]
        place = f"{self.path}: line {number} ({name})"
        if self.form == "caption":
            return _captions(record, "caption", place)
        return f"{_captions(record, 'captions', place)}\n\n{_boxes(record, place)}"


def read_contexts(form: ContextForm, path: str | None) -> Contexts | None:
    """Reads a context file, or returns None if the judge is told nothing about images.

    Raises:
        InvalidRequest: the file is required but not given.
        DataError: the file cannot be read. The message names file and line.
    """
    if form == "none":
        return None
    if path is None:
        raise InvalidRequest("--context is missing. Give the file that tells the judge what the images show.")
    by_image = read_answers(locate(path, remedy=_REMEDY), key="image")
    return Contexts(by_image.path, form, {image_name(name): line for name, line in by_image.lines.items()})


def image_name(name: str) -> str:
    """Returns an image's file name, without the prefix that COCO's names may have (`COCO_val2014_`)."""
    return _COCO_PREFIX.sub("", name.replace("\\", "/").rpartition("/")[2])


def _captions(record: Mapping[str, Any], field: str, place: str) -> str:
    value = record.get(field)
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(caption, str) for caption in value):
        return "\n".join(value)
    raise DataError(f"{place}: {field!r} is missing, or neither a string nor a list of strings.")


def _boxes(record: Mapping[str, Any], place: str) -> str:
    boxes = record.get("instances")
    if not isinstance(boxes, list):
        raise DataError(f"{place}: 'instances' is missing, or not a list.")
    for box in boxes:
        fields = (box.get("category"), box.get("bbox")) if isinstance(box, dict) else (None, None)
        if not isinstance(fields[0], str) or not isinstance(fields[1], list):
            raise DataError(f"{place}: an instance is {json.dumps(box)}, expected 'category' and 'bbox'.")
    return "\n".join(f"{box['category']}: {box['bbox']}" for box in boxes)
