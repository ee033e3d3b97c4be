"""Reads a training file and checks its records before any weights are loaded.

The format is the original's: records `{"id", "image" (optional), "conversations": [{"from", "value"}, ...]}` in a JSON
list, or one on each line (JSON Lines). `image` is a path relative to the image folder, or a list of paths; each image
has one `<image>` in a human turn. A first turn may be from `system`. The dataset opens the images later, one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import DataError
from llava.files.json_files import json_type, without_garbage_collection
from llava.files.json_items import Item, read_items

HUMAN = "human"
ASSISTANT = "gpt"
SYSTEM = "system"
_ROLES = {"human": HUMAN, "user": HUMAN, "gpt": ASSISTANT, "assistant": ASSISTANT, "system": SYSTEM}
"""Names of roles in training files, and the names used here; `user` and `assistant` are those of chat APIs."""

_NOUN = "images?|imgs?|pictures?|pics?|photos?|videos?|audios?|sounds?|media|frames?"
_SEVERAL = r"images|imgs|pictures|pics|photos|videos?|audios?|sounds?|frames|image\d+|img\d+"
_CONTENT = "local|relative|paths?|files?|lists?|data|bytes|base|b|str"
_REFERENCE = "input|names?|urls?|uris?|ids?|src|dir"
_MEDIA_KEY = re.compile(rf"(?:input|local)?(?:{_NOUN})(?:{_CONTENT}|{_REFERENCE}|\d)*")
"""Keys that speak of an image, video or sound, in lower case and without any signs."""
_MORE_MEDIA_KEY = re.compile(rf"(?:input|local)?(?:{_SEVERAL})(?:{_CONTENT}|\d)*")
"""Keys of what would be lost even beside `image`."""
_MEDIA_VALUE = re.compile(
    r"data:(?:image|video|audio)/|[^\n]{1,1000}\.(?:jpe?g|png|webp|gif|bmp|tiff?|hei[cf]|avif|mp4|avi|mov|mkv|webm|wav|mp3)\Z",
    re.IGNORECASE,
)
"""Values that are a file of an image, video or sound."""
_WEIGHT_KEYS = {"weight", "loss", "train", "lossweight"}
"""Keys with which other programs leave single turns out of the loss."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_REMEDY = "Set --data_path to a JSON or JSON Lines file."
_SHOWN = 80
"""Longest value to show in a message."""


class RecordError(DataError):
    """A record that cannot be used."""

    def __init__(self, name: str, reason: str) -> None:
        """
        Args:
            name: name of the record, as in `Record`.
            reason: what is wrong, and what to do.
        """
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


def has_words(text: str) -> bool:
    """Tells whether a text has anything to read; white space and invisible characters are nothing."""
    return any(character.isprintable() and not character.isspace() for character in text)


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
    id: str | None = None
    """The record's `id` as it is shown in messages; None without one."""

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
    first, malformed = None, 0
    for record in scan_records(path, allow_outside=allow_outside):
        if isinstance(record, Record):
            records.append(record)
        else:
            first, malformed = first or record, malformed + 1
    if first is not None:
        others = ""
        if malformed > 1:
            total = malformed + len(records)
            others = f" {malformed - 1:,} more of {total:,} records are malformed; list them: llava data check {path}"
        raise DataError(f"{first}{others}")
    return records


def scan_records(path: str | Path, *, allow_outside: bool = False) -> Iterator[Record | RecordError]:
    """Yields each record of a file, or what is wrong with it.

    Raises:
        DataError: the file is missing, empty, or holds something else than records.
    """
    with without_garbage_collection():
        is_empty = True
        for item in read_items(path, remedy=_REMEDY):
            is_empty = False
            try:
                record: Record | RecordError = _record_of(item, f"{path}: {item.place}", allow_outside=allow_outside)
            except RecordError as error:
                record = RecordError(error.name, error.reason)  # without a traceback, which would keep the item
            yield record
    if is_empty:
        raise DataError(f"{path}: the list of records is empty; there is nothing to train on.")


def _record_of(item: Item, place: str, *, allow_outside: bool) -> Record:
    if item.problem is not None:
        raise RecordError(place, f"{item.problem}. Each line must be one JSON object.")
    return parse_record(item.value, place, allow_outside=allow_outside)


def parse_record(content: Any, place: str, *, allow_outside: bool = False) -> Record:
    """Turns one JSON value into a `Record`.

    Args:
        place: "FILE: record N" or "FILE: line N", which starts each error message.
        allow_outside: whether image paths may leave the image folder.

    Raises:
        RecordError: a field is missing or has the wrong type, or the numbers of markers and images differ.
    """
    if not isinstance(content, dict):
        raise RecordError(place, f"expected an object with 'conversations', found a JSON {json_type(content)}.")
    identity = _shown(content["id"]) if "id" in content else None
    name = place if identity is None else f"{place} (id {identity})"
    system, turns = _parse_turns(content, name)
    _refuse_other_media(content, name)
    images = _parse_images(content, name, allow_outside=allow_outside)
    record = Record(name, turns, images, system, identity)
    _check_markers(record)
    return record


def _shown(value: Any) -> str:
    """Shows a value in a message; never long, and without characters that a terminal would obey."""
    text = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _parse_turns(item: dict[str, Any], name: str) -> tuple[str | None, tuple[RecordTurn, ...]]:
    conversations = item.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        raise RecordError(name, _no_conversations(item))
    if isinstance(item.get("system"), str) and item["system"].strip():
        raise RecordError(
            name, '\'system\' is not read. Make it the first of \'conversations\': {"from": "system", "value": ...}.'
        )
    system = None
    turns = []
    for number, turn in enumerate(conversations):
        place = f"turn {number} (counting from 0)"
        role, text = _parse_turn(turn, name, place)
        if role == SYSTEM:
            if number > 0:
                raise RecordError(name, f"{place} is from 'system'. Only the first turn may be.")
            system = text
            continue
        turns.append(RecordTurn(role=role, text=text))
    if all(turn.role == HUMAN for turn in turns):
        raise RecordError(name, "there is no turn from 'gpt', so there is no answer to learn. Remove the record.")
    return system, tuple(turns)


def _no_conversations(item: dict[str, Any]) -> str:
    expected = "'conversations' is missing or empty, expected a list of turns with 'from' and 'value'."
    for key in ("messages", "conversation", "dialog", "dialogue", "chat"):
        if item.get(key):
            return f"{expected} The record has {key!r}; rename it, and give each turn 'from' and 'value'."
    texts = [
        key
        for key in ("instruction", "prompt", "question", "query", "output", "response", "answer", "text")
        if key in item
    ]
    if texts:
        return f"{expected} The record has {', '.join(map(repr, texts))}; make each a turn."
    return expected


def _parse_turn(turn: Any, name: str, place: str) -> tuple[str, str]:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        advice = ""
        if isinstance(turn, dict) and "role" in turn and "content" in turn:
            advice = " It has 'role' and 'content'; rename them to 'from' and 'value', and write images as <image>."
        raise RecordError(name, f"{place} must be an object with 'from' and a string 'value'.{advice}")
    sender = turn.get("from")
    role = _ROLES.get(sender) if isinstance(sender, str) else None
    if role is None:
        raise RecordError(name, f"{place} has 'from': {_shown(sender)}, expected 'human' or 'gpt' (or 'system' first).")
    _check_text(turn["value"], name, place)
    if len(turn) > 2:
        _check_turn_keys(turn, name, place)
    return role, turn["value"]


def _check_turn_keys(turn: dict[str, Any], name: str, place: str) -> None:
    """Refuses keys of a turn that change what is to be learnt, because they are not read."""
    for key, value in turn.items():
        plain = _plain(key)
        if value and _MEDIA_KEY.fullmatch(plain) and isinstance(value, (str, list, dict)):
            raise RecordError(
                name,
                f"{place} has {key!r}, which is not read. Move the path to the record's 'image', and write one <image> "
                "for each image in the turn.",
            )
        if plain in _WEIGHT_KEYS and value not in (1, True, None):
            raise RecordError(
                name,
                f"{place} has {key!r}: {_shown(value)}, which is not read; the turn would be trained like any other. "
                "Remove the key or the record.",
            )


def _check_text(text: str, name: str, place: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError(
            name,
            f"{place}: character {error.start} is half of a surrogate pair ({text[error.start]!a}), which is not text. "
            "It is left where text was cut in the middle of an emoji; remove it.",
        ) from None


def _plain(key: str) -> str:
    """Returns the letters and digits of a key in lower case, so that `imagePath` and `image-path` are one."""
    return re.sub(r"[\W_]", "", key).lower()


def _refuse_other_media(item: dict[str, Any], name: str) -> None:
    """Refuses images, videos and sounds under keys that are not read, because the record would train without them."""
    image = item.get("image")
    for key, value in item.items():
        if not value or isinstance(value, bool) or key in ("image", "conversations", "id"):
            continue
        plain = _plain(key)
        if image:
            speaks = _MORE_MEDIA_KEY.fullmatch(plain) and isinstance(value, (str, list, dict))
            speaks = speaks and value not in (image, [image])
        else:
            speaks = _MEDIA_KEY.fullmatch(plain) and (isinstance(value, (str, list, dict)) or plain.endswith("id"))
            speaks = speaks or _is_media(value)
        if speaks:
            advice = "Rename it to 'image', and write one <image> for each image in the human turns."
            if re.match("video|audio|sound", plain):
                advice = "Videos and sounds are not supported; remove the record."
            raise RecordError(name, f"{key!r} is not read. {advice}")


def _is_media(value: Any) -> bool:
    values = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]
    return any(isinstance(text, str) and _MEDIA_VALUE.match(text) for text in values)


def _parse_images(item: dict[str, Any], name: str, *, allow_outside: bool) -> tuple[str, ...]:
    value = item.get("image")
    if value is None:
        return ()
    if value == "":
        raise RecordError(name, "'image' is empty. Give a path, or remove the key from a record without an image.")
    images = [value] if isinstance(value, str) else value
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise RecordError(name, f"'image' must be a path or a list of paths, found {_shown(value)}.")
    for image in images:
        _check_text(image, name, "'image'")
        if "\0" in image:
            raise RecordError(name, f"the image path {_shown(image)} contains a NUL character.")
        if _URL.match(image):
            advice = "Save the image as a file" if image[:5].lower() == "data:" else "Download it"
            raise RecordError(name, f"the image {_shown(image)} is a URL. {advice}, and give a path.")
        if not allow_outside and _leaves_folder(image):
            raise RecordError(
                name,
                f"the image {_shown(image)} lies outside the image folder. Make the path relative to it, or set "
                "--allow_outside_images True if you trust the file.",
            )
    return tuple(images)


def _leaves_folder(path: str) -> bool:
    """Tells whether a path, as it is written, leads out of the folder that it is relative to. Links are not followed,
    because image folders are often put together from links."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or re.match(r"[A-Za-z]:[\\/]", path):
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
        raise RecordError(name, f"the system turn contains {DEFAULT_IMAGE_TOKEN}. Images belong to human turns.")
    for number, turn in enumerate(record.turns):
        found = turn.text.count(DEFAULT_IMAGE_TOKEN)
        if found and turn.role != HUMAN:
            raise RecordError(
                name,
                f"{record.place_of(number)} from 'gpt' contains {DEFAULT_IMAGE_TOKEN}. Images belong to human turns: "
                "move the marker, or reword the text.",
            )
        markers += found
    if markers == len(images):
        return
    if not images:
        raise RecordError(
            name,
            f"the text has {markers} {DEFAULT_IMAGE_TOKEN} but the record has no 'image'. "
            "Add the path of the image, or remove the marker.",
        )
    raise RecordError(
        name,
        f"{len(images)} images but {markers} {DEFAULT_IMAGE_TOKEN} in the human turns. "
        f"Write one {DEFAULT_IMAGE_TOKEN} for each image.",
    )
