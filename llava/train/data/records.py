"""Reads a training file and checks its records before any weights are loaded.

The format is the original's: records `{"id", "image" (optional), "conversations": [{"from", "value"}, ...]}` in a JSON
list, or one on each line (JSON Lines). `image` is a path relative to the image folder, or a list of paths; each image
has one `<image>` in a human turn. A first turn may be from `system`. The dataset opens the images later, one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import DataError
from llava.files.json_files import json_type, parse_json, read_text, without_garbage_collection

HUMAN = "human"
ASSISTANT = "gpt"
SYSTEM = "system"
_ROLES = {"human": HUMAN, "user": HUMAN, "gpt": ASSISTANT, "assistant": ASSISTANT, "system": SYSTEM}
"""Names of roles in training files, and the names used here; `user` and `assistant` are those of chat APIs."""

_MEDIA = re.compile(
    r"(images?|imgs?|pictures?|photos?|videos?|audios?|media|frames?)"
    r"(_?(paths?|files?|file_?names?|urls?|names?|ids?|list))?",
    re.IGNORECASE,
)
"""Keys that speak of an image, but are not the key that is read."""
_OTHER_CONTENT = re.compile(r"images|imgs|videos?|audios?|media|frames", re.IGNORECASE)
"""Keys of content that would be lost even beside `image`."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_REMEDY = "Set --data_path to a JSON or JSON Lines file."


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
    """File, index or line, and id, for error messages."""
    turns: tuple[RecordTurn, ...]
    """All turns in order, without the system turn; at least one is an answer."""
    images: tuple[str, ...] = ()
    """Image paths in the order of their `<image>` markers."""
    system: str | None = None
    """Text of the system turn, which replaces the template's; None without one."""

    def place_of(self, number: int) -> str:
        """Describes a turn of `turns` by its position in the file."""
        return f"turn {number + (self.system is not None)} (counting from 0)"


def load_records(path: str | Path, *, allow_outside: bool = False) -> list[Record]:
    """Reads and checks a whole training file.

    Args:
        allow_outside: whether image paths may leave the image folder.

    Raises:
        DataError: the file is missing, empty, or of another form, or a record is malformed. The message names the file,
            the first malformed record and its fault, and the number of other malformed records.
    """
    records: list[Record] = []
    problems: list[DataError] = []
    for record in scan_records(path, allow_outside=allow_outside):
        (problems if isinstance(record, DataError) else records).append(record)  # type: ignore[arg-type]
    if problems:
        others = ""
        if len(problems) > 1:
            total = len(problems) + len(records)
            others = f" {len(problems) - 1} more of {total} records are malformed; list them: llava data check {path}"
        raise DataError(f"{problems[0]}{others}")
    return records


def scan_records(path: str | Path, *, allow_outside: bool = False) -> Iterator[Record | DataError]:
    """Yields each record of a file, or what is wrong with it.

    Raises:
        DataError: the file is missing, empty, or holds something else than records.
    """
    path = Path(path)
    with without_garbage_collection():
        number = 0
        for place, item in _items(path):
            number += 1
            try:
                yield parse_record(item, place, allow_outside=allow_outside)
            except DataError as error:
                yield error
    if number == 0:
        raise DataError(f"{path}: the list of records is empty; there is nothing to train on.")


def _items(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the place and the content of each record of a file."""
    text = read_text(path, remedy=_REMEDY)
    if path.suffix == ".jsonl" or _is_json_lines(text):
        # Python's splitlines would also split at other characters, which JSON allows inside a string.
        for number, line in enumerate(text.split("\n"), start=1):
            if line and not line.isspace():
                yield f"{path}: line {number}", _parsed_line(line)
        return
    content = parse_json(text, path)
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of records, found a JSON {json_type(content)}.")
    for index, item in enumerate(content):
        yield f"{path}: record {index}", item


def _is_json_lines(text: str) -> bool:
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        json.loads(first)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _NotJson:
    """A line that is not JSON."""

    reason: str


def _parsed_line(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return _NotJson(f"not JSON at column {error.colno}: {error.msg}")
    except RecursionError:
        return _NotJson("JSON that is nested too deeply")


def parse_record(item: Any, place: str, *, allow_outside: bool = False) -> Record:
    """Turns one JSON object into a `Record`.

    Args:
        place: "FILE: record N" or "FILE: line N", which starts each error message.
        allow_outside: whether image paths may leave the image folder.

    Raises:
        DataError: a field is missing or has the wrong type, or the numbers of markers and images differ.
    """
    if isinstance(item, _NotJson):
        raise DataError(f"{place}: {item.reason}. Each line must be one JSON object.")
    if not isinstance(item, dict):
        raise DataError(f"{place}: expected an object with 'conversations', found a JSON {json_type(item)}.")
    name = f"{place} (id {item['id']!r})" if "id" in item else place
    system, turns = _parse_turns(item, name)
    _refuse_other_media(item, name)
    images = _parse_images(item, name, allow_outside=allow_outside)
    record = Record(name, turns, images, system)
    _check_markers(record)
    return record


def _parse_turns(item: dict[str, Any], name: str) -> tuple[str | None, tuple[RecordTurn, ...]]:
    conversations = item.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        other = next((key for key in ("messages", "conversation", "dialog", "text") if item.get(key)), None)
        hint = f" The record has {other!r}; rename it, and give each turn 'from' and 'value'." if other else ""
        raise DataError(
            f"{name}: 'conversations' is missing or empty, expected a list of turns with 'from' and 'value'.{hint}"
        )
    system = None
    turns = []
    for number, turn in enumerate(conversations):
        place = f"turn {number} (counting from 0)"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise DataError(f"{name}: {place} must be an object with 'from' and a string 'value'.")
        role = _ROLES.get(turn.get("from")) if isinstance(turn.get("from"), str) else None  # type: ignore[arg-type]
        if role is None:
            raise DataError(
                f"{name}: {place} has 'from': {turn.get('from')!r}, expected 'human' or 'gpt' (or 'system' first)."
            )
        _check_text(turn["value"], f"{name}: {place}")
        if role == SYSTEM:
            if number > 0:
                raise DataError(f"{name}: {place} is from 'system'. Only the first turn may be.")
            system = turn["value"]
            continue
        turns.append(RecordTurn(role=role, text=turn["value"]))
    if all(turn.role == HUMAN for turn in turns):
        raise DataError(f"{name}: there is no turn from 'gpt', so there is no answer to learn. Remove the record.")
    return system, tuple(turns)


def _check_text(text: str, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: character {error.start} is half of a surrogate pair ({text[error.start]!a}), which is not text. "
            "It is left where text was cut in the middle of an emoji; remove it."
        ) from None


def _refuse_other_media(item: dict[str, Any], name: str) -> None:
    """Refuses images, videos and sounds under keys that are not read, because the record would train without them."""
    pattern = _OTHER_CONTENT if item.get("image") else _MEDIA
    for key, value in item.items():
        if key != "image" and value and isinstance(key, str) and pattern.fullmatch(key):
            advice = "Rename it to 'image', and write one <image> for each image in the human turns."
            if key[:1] in "vVaA":
                advice = "Videos and sounds are not supported; remove the record."
            raise DataError(f"{name}: {key!r} is not read. {advice}")


def _parse_images(item: dict[str, Any], name: str, *, allow_outside: bool) -> tuple[str, ...]:
    value = item.get("image")
    if value is None:
        return ()
    images = [value] if isinstance(value, str) else value
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise DataError(f"{name}: 'image' must be a path or a list of paths, found {value!r}.")
    for image in images:
        _check_text(image, f"{name}: 'image'")
        if "\0" in image:
            raise DataError(f"{name}: the image path {image!r} contains a NUL character.")
        if len(image.split(":", 1)[0]) > 1 and _URL.match(image):
            raise DataError(f"{name}: the image {image[:80]!r} is a URL. Download it, and give a path.")
        if not allow_outside and _leaves_folder(image):
            raise DataError(
                f"{name}: the image {image!r} lies outside the image folder. Make the path relative to it, or set "
                "--allow_outside_images True if you trust the file."
            )
    return tuple(images)


def _leaves_folder(path: str) -> bool:
    """Tells whether a path, as it is written, leads out of the folder that it is relative to. Links are not followed,
    because image folders are often put together from links."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or re.match(r"[A-Za-z]:", path):
        return True
    depth = 0
    for part in pure.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def _check_markers(record: Record) -> None:
    name, images = record.name, record.images
    markers = 0
    if record.system is not None and DEFAULT_IMAGE_TOKEN in record.system:
        raise DataError(f"{name}: the system turn contains {DEFAULT_IMAGE_TOKEN}. Images belong to human turns.")
    for number, turn in enumerate(record.turns):
        found = turn.text.count(DEFAULT_IMAGE_TOKEN)
        if found and turn.role != HUMAN:
            raise DataError(
                f"{name}: {record.place_of(number)} from 'gpt' contains {DEFAULT_IMAGE_TOKEN}. Images belong to human "
                "turns: move the marker, or reword the text."
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
