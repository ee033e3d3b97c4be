"""Reads a training file and checks its records before any weights are loaded.

The format is the original's: a JSON list of `{"id", "image" (optional), "conversations": [{"from", "value"}, ...]}`.
`image` is a path relative to the image folder, or a list of paths; each image has one `<image>` in a human turn.
The dataset opens the images later, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import DataError
from llava.files.json_files import json_type, read_json, without_garbage_collection

HUMAN = "human"
ASSISTANT = "gpt"
ROLES = (HUMAN, ASSISTANT)


@dataclass(frozen=True, slots=True)
class RecordTurn:
    """One turn of a conversation."""

    role: str
    """`human` or `gpt`."""
    text: str
    """What was said, with one `<image>` for each image."""


@dataclass(frozen=True, slots=True)
class Record:
    """One conversation with its images."""

    name: str
    """File, index and id, for error messages."""
    turns: tuple[RecordTurn, ...]
    """All turns in order; at least one is an answer."""
    images: tuple[str, ...] = ()
    """Image paths in the order of their `<image>` markers."""


def load_records(path: str | Path) -> list[Record]:
    """Reads and checks a whole training file.

    Raises:
        DataError: the file is missing, empty, or not a JSON list, or a record is malformed. The message names the
            file, the first malformed record and its fault, and the number of other malformed records.
    """
    path = Path(path)
    with without_garbage_collection():
        return _check_all(path, read_json(path, remedy="Set --data_path to a JSON file."))


def _check_all(path: Path, raw: Any) -> list[Record]:
    if not isinstance(raw, list):
        raise DataError(f"{path}: expected a list of records, found a JSON {json_type(raw)}.")
    if not raw:
        raise DataError(f"{path}: the list of records is empty; there is nothing to train on.")
    records: list[Record] = []
    problems: list[DataError] = []
    for index, item in enumerate(raw):
        try:
            records.append(parse_record(item, f"{path}: record {index}"))
        except DataError as error:
            problems.append(error)
    if problems:
        others = f" {len(problems) - 1} more of {len(raw)} records are malformed." if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{others}")
    return records


def check_first_images(records: list[Record], folder: Path, *, limit: int = 100) -> None:
    """Checks that the images of the first records exist, before minutes are spent on loading weights.

    Args:
        folder: folder that the image paths are relative to.
        limit: number of records with images to check.

    Raises:
        DataError: an image is missing; the message names the record and the file.
    """
    for record in [record for record in records if record.images][:limit]:
        for image in record.images:
            if not (folder / image).is_file():
                raise DataError(f"{record.name}: image {folder / image} does not exist. Check --image_folder.")


def parse_record(item: Any, place: str) -> Record:
    """Turns one JSON object into a `Record`.

    Args:
        place: "FILE: record N", which starts each error message.

    Raises:
        DataError: a field is missing or has the wrong type, or the numbers of markers and images differ.
    """
    if not isinstance(item, dict):
        raise DataError(f"{place}: expected an object with 'conversations', found a JSON {json_type(item)}.")
    name = f"{place} (id {item['id']!r})" if "id" in item else place
    turns = _parse_turns(item.get("conversations"), name)
    images = _parse_images(item, name)
    _check_markers(turns, images, name)
    return Record(name=name, turns=turns, images=images)


def _parse_turns(conversations: Any, name: str) -> tuple[RecordTurn, ...]:
    if not isinstance(conversations, list) or not conversations:
        raise DataError(
            f"{name}: 'conversations' is missing or empty, expected a list of turns with 'from' and 'value'."
        )
    turns = []
    for number, turn in enumerate(conversations):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise DataError(f"{name}: turn {number} must be an object with 'from' and a string 'value'.")
        role = turn.get("from")
        if role not in ROLES:
            raise DataError(f"{name}: turn {number} has 'from': {role!r}, expected 'human' or 'gpt'.")
        turns.append(RecordTurn(role=role, text=turn["value"]))
    if all(turn.role == HUMAN for turn in turns):
        raise DataError(f"{name}: there is no turn from 'gpt', so there is no answer to learn. Remove the record.")
    return tuple(turns)


def _parse_images(item: dict[str, Any], name: str) -> tuple[str, ...]:
    value = item.get("image")
    if value is None:
        return ()
    images = [value] if isinstance(value, str) else value
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise DataError(f"{name}: 'image' must be a path or a list of paths, found {value!r}.")
    return tuple(images)


def _check_markers(turns: tuple[RecordTurn, ...], images: tuple[str, ...], name: str) -> None:
    markers = 0
    for number, turn in enumerate(turns):
        found = turn.text.count(DEFAULT_IMAGE_TOKEN)
        if found and turn.role != HUMAN:
            raise DataError(
                f"{name}: turn {number} from 'gpt' contains {DEFAULT_IMAGE_TOKEN}. Images belong to human turns: "
                "move the marker, or reword the text."
            )
        markers += found
    if markers == len(images):
        return
    if not images:
        raise DataError(
            f"{name}: the text has {markers} {DEFAULT_IMAGE_TOKEN} but the record has no 'image'. "
            "Add the path of the image, or remove the marker."
        )
    raise DataError(
        f"{name}: {len(images)} images but {markers} {DEFAULT_IMAGE_TOKEN} in the human turns. "
        f"Write one {DEFAULT_IMAGE_TOKEN} for each image."
    )
