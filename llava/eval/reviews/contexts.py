"""What tells a judge, who sees no image, what it shows: captions and boxes, or one caption."""

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
_REMEDY: Final = "scripts/get_data.sh fetches the original's; docs/gpt-review.md tells its form."


@dataclass(frozen=True, slots=True)
class Contexts:
    """A context file, by image."""

    path: Path
    form: ContextForm
    lines: Mapping[str, Line]
    """By `image_name`."""

    def text(self, questions: Joined, identity: str) -> str:
        """What the judge reads about the image of a question.

        Raises:
            DataError: the question names no image, or one that is not in the file, or its record is not of the form.
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
    """Reads a context file; None where the judge is told nothing.

    Raises:
        InvalidRequest: there is none, but the judge needs it.
        DataError: it cannot be read; names file and line.
    """
    if form == "none":
        return None
    if path is None:
        raise InvalidRequest("--context is missing: the file that tells the judge what the images show.")
    by_image = read_answers(locate(path, remedy=_REMEDY), key="image")
    return Contexts(by_image.path, form, {image_name(name): line for name, line in by_image.lines.items()})


def image_name(name: str) -> str:
    """An image's file name, the same for COCO's two spellings (`COCO_val2014_000000000042.jpg` and without)."""
    return _COCO_PREFIX.sub("", name.replace("\\", "/").rpartition("/")[2])


def _captions(record: Mapping[str, Any], field: str, place: str) -> str:
    value = record.get(field)
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(caption, str) for caption in value):
        return "\n".join(value)
    raise DataError(f"{place}: {field!r} is missing, or neither a text nor a list of texts.")


def _boxes(record: Mapping[str, Any], place: str) -> str:
    boxes = record.get("instances")
    if not isinstance(boxes, list):
        raise DataError(f"{place}: 'instances' is missing, or not a list.")
    for box in boxes:
        fields = (box.get("category"), box.get("bbox")) if isinstance(box, dict) else (None, None)
        if not isinstance(fields[0], str) or not isinstance(fields[1], list):
            raise DataError(f"{place}: an instance is {json.dumps(box)}, expected 'category' and 'bbox'.")
    return "\n".join(f"{box['category']}: {box['bbox']}" for box in boxes)
