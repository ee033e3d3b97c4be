"""Reads the questions of an evaluation and finds their images.

Two questions are the same if id and text are the same: some benchmarks ask several questions under one id (the id of an
image).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import id_of, some, text_field
from llava.files.json_files import json_type, read_json, read_jsonl

Key = tuple[str, int, str]
"""What identifies a question: its id, its round (0 if it is asked only once) and its text."""

LETTER_ONLY = "Answer with the option's letter from the given choices directly."
"""What v1.5 and later append to a multiple-choice question; their checkpoints were trained on these words."""

_COCO_PREFIX = re.compile(r"COCO_(?:train|val|test)20\d\d_(?=\d{12}\.)")
_COCO_NUMBER = re.compile(r"\d{12}\.\w+")
_COCO_SPLITS = ("val2014", "train2014")

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question to a model."""

    place: str
    """What an error message calls it: file, line and id."""
    record: dict[str, Any]
    """The first fields of its answer's record: `question_id` as in the file, `prompt`, and the benchmark's own."""
    text: str
    """What the model is asked. Images go where the checkpoint expects them, unless the text contains `<image>`."""
    images: tuple[str | Path, ...] = ()
    """Image names as in the file, or the image files once they are found; or data URIs."""

    @property
    def key(self) -> Key:
        """What identifies the question."""
        return key_of(self.record, self.place)


def key_of(record: dict[str, Any], place: str) -> Key:
    """Returns the key of the question that a record asks or answers.

    Raises:
        DataError: the record has no id or prompt, or its round is not an integer; `place` begins the message.
    """
    identity = id_of(record, "question_id", place)
    turn = record.get("round_id", 0)
    if not isinstance(turn, int):
        raise DataError(f"{place}: 'round_id' is {turn!r}, expected an integer.")
    return identity, turn, text_field(record, "prompt", place)


# Files


def read_vqa(path: Path) -> list[Question]:
    """Reads JSON Lines with `question_id`, `text` and optionally `image` (a name or a list of names).

    Raises:
        DataError: the file has another form or no questions; names file and line.
    """
    return list(_read_lines(path, with_images=True))


def read_text_only(path: Path) -> list[Question]:
    """Reads JSON Lines with `question_id` and `text`.

    Raises:
        DataError: the file has another form or no questions; names file and line.
    """
    return list(_read_lines(path, with_images=False))


def _read_lines(path: Path, *, with_images: bool) -> Iterator[Question]:
    lines = read_jsonl(path)
    if not lines:
        raise DataError(f"{path}: holds no questions.")
    for number, record in lines:
        place = _place(path, "line", number, record, "question_id")
        text = text_field(record, "text", place)
        names = _names(record.get("image"), place) if with_images else ()
        yield Question(place, {"question_id": record["question_id"], "prompt": text}, text, names)


def read_science_qa(path: Path, *, letter_only: bool) -> list[Question]:
    """Reads ScienceQA as `llava eval convert-science-qa` writes it.

    The file is a JSON list of objects with `id`, `conversations` and optionally `image`.

    Args:
        letter_only: ask only for the letter of the answer.

    Raises:
        DataError: the file has another form or no problems; names file and record.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        found = "an empty list" if entries == [] else f"a JSON {json_type(entries)}"
        raise DataError(
            f"{path}: holds {found}, expected a list of problems as `llava eval convert-science-qa` writes it."
        )
    questions = []
    for number, entry in enumerate(entries, start=1):
        place = _place(path, "record", number, entry, "id")
        text = _first_turn(entry, place).replace(DEFAULT_IMAGE_TOKEN, "").strip()
        names = _names(entry.get("image"), place)
        prompt = text + f"\n{DEFAULT_IMAGE_TOKEN}" * len(names)
        if letter_only:
            text, prompt = f"{text}\n{LETTER_ONLY}", f"{prompt}\n{LETTER_ONLY}"
        questions.append(Question(place, {"question_id": entry["id"], "prompt": prompt}, text, names))
    return questions


def _first_turn(entry: dict[str, Any], place: str) -> str:
    turns = entry.get("conversations")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        raise DataError(f"{place}: 'conversations' is not a list of turns.")
    return text_field(turns[0], "value", f"{place}, first turn")


def _place(path: Path, unit: str, number: int, record: Any, key: str) -> str:
    """Returns the place of a record, after checking that it has an id."""
    place = f"{path}: {unit} {number}"
    if not isinstance(record, dict):
        raise DataError(f"{place} is a JSON {json_type(record)}, expected an object.")
    return f"{place} (question {id_of(record, key, place)})"


def _names(value: Any, place: str) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{place}: 'image' must be the name of an image, or a list of names.")
    return tuple(names)


# Selection


def note(text: str) -> None:
    """Prints a note for the user on standard error."""
    print(f"note: {text}", file=sys.stderr)


def distinct(questions: Sequence[Question], *, say: Callable[[str], None] = note) -> list[Question]:
    """Returns each question once.

    Args:
        questions: all questions of a file.
        say: receives a sentence about duplicates, and one about ids that several questions share.

    Raises:
        DataError: two questions with the same id and text have different images, so their answers could not be told
            apart.
    """
    first: dict[Key, Question] = {}
    repeated = []
    for question in questions:
        other = first.setdefault(question.key, question)
        if other.images != question.images:
            raise DataError(
                f"{question.place}: {other.place.rpartition(': ')[2]} has the same id and text but another image. "
                "Give each question its own id."
            )
        if other is not question:
            repeated.append(question.place.rpartition(": ")[2])
    if repeated:
        say(f"duplicate questions are answered once: {len(repeated)} ({some(repeated)})")
    num_shared = len(first) - len({key[:2] for key in first})
    if num_shared:
        say(f"questions that share an id with another and are told apart by their text: {num_shared}")
    return list(first.values())


def chunk(items: Sequence[T], count: int, index: int) -> Sequence[T]:
    """Returns part `index` of `count` parts of equal length; the last parts may be shorter or empty.

    Raises:
        InvalidRequest: `count` or `index` is out of range.
    """
    if count < 1 or not 0 <= index < count:
        raise InvalidRequest(f"chunk {index} of {count}: there must be at least one chunk, and chunks count from 0.")
    size = -(-len(items) // count)
    return items[size * index : size * (index + 1)]


def by_image(questions: Iterable[Question]) -> list[Question]:
    """Groups questions about the same images; the order is otherwise unchanged."""
    groups: dict[tuple[str | Path, ...], list[Question]] = {}
    for question in questions:
        # Questions without an image have nothing to share, so each is a group.
        groups.setdefault(question.images or (question.place,), []).append(question)
    return [question for group in groups.values() for question in group]


# Images


class ImageFolder:
    """Finds images by name, COCO's also if question file and folder disagree about the prefix `COCO_val2014_`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.num_renamed = 0
        """Number of images that were found under COCO's other name."""

    def find(self, name: str) -> Path | None:
        """Returns the file of an image, or None if it does not exist."""
        for number, candidate in enumerate(_coco_names(name)):
            path = self.folder / candidate
            if path.is_file():
                if number > 0:
                    self.num_renamed += 1
                return path
        return None


def _coco_names(name: str) -> Iterator[str]:
    yield name
    head, slash, last = name.rpartition("/")
    if _COCO_PREFIX.match(last):
        yield head + slash + _COCO_PREFIX.sub("", last)
    elif _COCO_NUMBER.fullmatch(last):
        yield from (f"{head}{slash}COCO_{split}_{last}" for split in _COCO_SPLITS)


def with_files(
    questions: Iterable[Question],
    folder: Path,
    on_missing: Callable[[Question, str], None],
    *,
    say: Callable[[str], None] = note,
) -> list[Question]:
    """Replaces the names of images with the files; data URIs stay as they are.

    Args:
        questions: questions with image names.
        folder: the folder of the images.
        on_missing: called with each question that is left out and the name of its missing image.
        say: receives a sentence if images have other names than in the questions.
    """
    images = ImageFolder(folder)
    found = []
    for question in questions:
        names = [name for name in question.images if isinstance(name, str)]
        files = [name if name.startswith("data:") else images.find(name) for name in names]
        missing = next((name for name, file in zip(names, files, strict=True) if file is None), None)
        if missing is None:
            found.append(replace(question, images=tuple(file for file in files if file is not None)))
        else:
            on_missing(question, missing)
    if images.num_renamed:
        say(f"images found in {folder} under COCO's other name (with or without COCO_val2014_): {images.num_renamed}")
    return found
