"""What is asked in an evaluation: the questions of a file, and where their images are.

Two questions are the same when id and text are: some benchmarks ask several things under one id (the id of an image).
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
"""What makes a question itself: id, round (0 where a question has one only), text."""

LETTER_ONLY = "Answer with the option's letter from the given choices directly."
"""What later releases add to a question with choices; their checkpoints were trained on these words."""

_COCO_PREFIX = re.compile(r"COCO_(?:train|val|test)20\d\d_(?=\d{12}\.)")
_COCO_NUMBER = re.compile(r"\d{12}\.\w+")
_COCO_SPLITS = ("val2014", "train2014")

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    place: str
    """What an error message calls it: file, line, id."""
    record: dict[str, Any]
    """How its answer's record begins: `question_id` as in the file, `prompt`, and what else the benchmark wants."""
    text: str
    """What the model is asked; images go where its checkpoint wants them, unless the text says `<image>` itself."""
    images: tuple[str | Path, ...] = ()
    """Names as in the file, then the files themselves; or data URIs."""

    @property
    def key(self) -> Key:
        return key_of(self.record, self.place)


def key_of(record: dict[str, Any], place: str) -> Key:
    """The key of the question that a record asks or answers.

    Raises:
        DataError: no such record; `place` begins the message.
    """
    identity = id_of(record, "question_id", place)
    turn = record.get("round_id", 0)
    if not isinstance(turn, int):
        raise DataError(f"{place}: 'round_id' is {turn!r}, expected a whole number.")
    return identity, turn, text_field(record, "prompt", place)


# Files


def read_vqa(path: Path) -> list[Question]:
    """Reads JSON Lines of `question_id`, `text` and maybe `image` (a name, or a list of names).

    Raises:
        DataError: not such a file, or nothing in it; names file and line.
    """
    return list(_read_lines(path, with_images=True))


def read_text_only(path: Path) -> list[Question]:
    """Reads JSON Lines of `question_id` and `text`.

    Raises:
        DataError: not such a file, or nothing in it; names file and line.
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
    """Reads ScienceQA as `scripts/convert_sqa_to_llava` writes it: a JSON list of `id`, `conversations`, maybe `image`.

    Args:
        letter_only: ask for the letter of the answer and nothing else.

    Raises:
        DataError: not such a file, or nothing in it; names file and record.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        found = "an empty list" if entries == [] else f"a JSON {json_type(entries)}"
        raise DataError(
            f"{path}: holds {found}, expected a list of problems as scripts/convert_sqa_to_llava writes it."
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
        raise DataError(f"{place}: 'conversations' is no list of turns.")
    return text_field(turns[0], "value", f"{place}, first turn")


def _place(path: Path, unit: str, number: int, record: Any, key: str) -> str:
    """Where a record is, once it is known to have an id."""
    place = f"{path}: {unit} {number}"
    if not isinstance(record, dict):
        raise DataError(f"{place} is a JSON {json_type(record)}, expected an object.")
    return f"{place} (question {id_of(record, key, place)})"


def _names(value: Any, place: str) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{place}: 'image' must be the name of an image, or a list of names.")
    return tuple(names)


# Which of them are asked


def note(text: str) -> None:
    """Says something that a user should know, on standard error."""
    print(f"note: {text}", file=sys.stderr)


def distinct(questions: Sequence[Question], *, say: Callable[[str], None] = note) -> list[Question]:
    """The questions, one that is repeated only once; `say` is told of repetitions and of ids that several share.

    Raises:
        DataError: two ask the same under one id about different images, so that their answers could not be told
            apart.
    """
    first: dict[Key, Question] = {}
    repeated = []
    for question in questions:
        other = first.setdefault(question.key, question)
        if other.images != question.images:
            raise DataError(
                f"{question.place}: {other.place.rpartition(': ')[2]} asks the same about another image under the "
                "same id. Give each an id of its own."
            )
        if other is not question:
            repeated.append(question.place.rpartition(": ")[2])
    if repeated:
        say(f"asked before, answered once: {len(repeated)} ({some(repeated)})")
    shared = len(first) - len({key[:2] for key in first})
    if shared:
        say(f"{shared} questions share an id with another; id and text tell them apart")
    return list(first.values())


def chunk(items: Sequence[T], count: int, index: int) -> Sequence[T]:
    """Part `index` of `count` parts of equal length; the last ones may be shorter, or empty.

    Raises:
        InvalidRequest: there is no such part.
    """
    if count < 1 or not 0 <= index < count:
        raise InvalidRequest(f"chunk {index} of {count}: chunks are counted from 0 to one less than their number.")
    size = -(-len(items) // count)
    return items[size * index : size * (index + 1)]


def by_image(questions: Iterable[Question]) -> list[Question]:
    """Questions about the same images one after the other, otherwise in their order."""
    groups: dict[tuple[str | Path, ...], list[Question]] = {}
    for question in questions:
        # Without an image there is nothing to share.
        groups.setdefault(question.images or (question.place,), []).append(question)
    return [question for group in groups.values() for question in group]


# Images


class ImageFolder:
    """Finds images by name; COCO's also where question file and folder disagree about the prefix `COCO_val2014_`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.num_renamed = 0
        """Images that were found under COCO's other name."""

    def find(self, name: str) -> Path | None:
        for number, candidate in enumerate(_coco_names(name)):
            path = self.folder / candidate
            if path.is_file():
                self.num_renamed += number > 0
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
    """The questions with files in the place of the names of their images, data URIs as they are.

    Args:
        on_missing: called with a question, which is left out, and the name of its image that is not there.
        say: told where images have other names than in the questions.
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
        say(
            f"{images.num_renamed} images were found in {folder} under COCO's other name "
            "(with or without COCO_val2014_)"
        )
    return found
