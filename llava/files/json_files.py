"""JSON and JSON Lines files: read with errors that name the place, written whole or not at all.

Files may carry a byte order mark and the line ends of any system. JSON is written in plain ASCII, so that no character
of a model's answer can fail to be written.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llava.errors import DataError, InvalidRequest


class Line(NamedTuple):
    """One object of a JSON Lines file."""

    number: int
    """Of the line in its file; the first is 1."""

    record: dict[str, Any]


def read_json(path: str | Path, *, remedy: str = "Check the path.") -> Any:
    """Reads one JSON value.

    Args:
        path: the file.
        remedy: the sentence that ends the message when there is no such file, or a folder in its place.

    Raises:
        DataError: the file is missing, is a folder, is not UTF-8, or is not JSON; names file, line and column.
    """
    text = read_text(path, remedy=remedy)
    try:
        with without_garbage_collection():
            return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}. {_advice(text, error)}"
        ) from None


def read_jsonl(path: str | Path, *, remedy: str = "Check the path.", still_growing: bool = False) -> list[Line]:
    """Reads a JSON Lines file: one object a line; empty lines count as lines and hold nothing.

    Args:
        still_growing: another process is writing the file, so what follows its last line end is not a line yet.

    Raises:
        DataError: as `read_json`, or a line that holds no object.
    """
    text = read_text(path, remedy=remedy)
    # Only at line feeds: other characters that Python's splitlines knows may stand inside a JSON string.
    pieces = text.split("\n")
    if still_growing:
        pieces.pop()
    lines = []
    with without_garbage_collection():
        for number, piece in enumerate(pieces, start=1):
            if not piece or piece.isspace():
                continue
            place = f"{path}: line {number}"
            try:
                record = json.loads(piece)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{place}: not JSON at column {error.colno}: {error.msg}. "
                    + _line_advice(error, is_last=number == len(pieces))
                ) from None
            if not isinstance(record, dict):
                raise DataError(f"{place}: holds a JSON {json_type(record)}, expected an object.")
            lines.append(Line(number, record))
    return lines


def read_text(path: str | Path, *, remedy: str = "Check the path.") -> str:
    """Reads a UTF-8 file, without its byte order mark.

    Raises:
        DataError: the file is missing, is a folder, or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. {remedy}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a file. {remedy}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}. Save the file as UTF-8.") from None


def json_type(value: Any) -> str:
    """What JSON calls a value: object, list, string, boolean, number or null."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes one JSON value; makes the folder.

    Raises:
        InvalidRequest: `path` is a folder.
    """
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_jsonl(path: str | Path, records: Iterable[Any]) -> None:
    """Writes a JSON Lines file; makes the folder.

    Raises:
        InvalidRequest: `path` is a folder.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 file; makes the folder.

    Raises:
        InvalidRequest: `path` is a folder.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes what a command makes into its --output folder, and says so on standard error.

    Raises:
        InvalidRequest: `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidRequest(f"--output {folder}: this is a file. Name a folder.")
    for name, content in files.items():
        with whole_file(folder / name) as temporary:
            temporary.write_bytes(content)
    print(f"wrote {', '.join(files)} in {folder}", file=sys.stderr)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, to be written; the file takes its name when the block ends well.

    A reader sees the old file or the whole new one; an error leaves nothing behind. The folder is made.

    Raises:
        InvalidRequest: `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InvalidRequest(f"{path}: is a folder. Give the name of the file to write.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        # A full disk names no file, and the temporary name says little to a user.
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Millions of small objects that all stay: looking for garbage among them would double the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _advice(text: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return "The file is empty."
    if _ends_early(error):
        return "The file ends there: it was cut off. Fetch or make it again."
    if error.msg == "Extra data":
        return "The file must hold one JSON value (not JSON Lines)."
    return "Correct it there, or make the file again."


def _line_advice(error: json.JSONDecodeError, *, is_last: bool) -> str:
    if is_last and _ends_early(error):
        return "The file ends there: what wrote it was interrupted. Let it finish, or remove the line."
    return "The file must be JSON Lines: one whole object on each line."


def _ends_early(error: json.JSONDecodeError) -> bool:
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
