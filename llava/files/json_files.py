"""Reads JSON and JSON Lines files with errors that name the place, and writes them completely or not at all.

Files may have a byte order mark and the line ends of any system. JSON is written in plain ASCII, so that every
character of a model's answer can be written.
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

from llava.errors import DataError, InvalidRequest, LlavaError


class Line(NamedTuple):
    """One object of a JSON Lines file."""

    number: int
    """Number of the line in its file, starting with 1."""

    record: dict[str, Any]
    """The object in the line."""


def read_json(path: str | Path, *, remedy: str = "Check the path.", error: type[LlavaError] = DataError) -> Any:
    """Reads one JSON value.

    Args:
        path: the file.
        remedy: last sentence of the message if the file is missing or a folder.
        error: type of the error to raise.

    Raises:
        LlavaError: of type `error`: the file is missing, a folder, unreadable, not UTF-8, or not JSON. The message
            names the file, line and column.
    """
    return parse_json(read_text(path, remedy=remedy, error=error), path, error=error)


def parse_json(text: str, path: str | Path, *, error: type[LlavaError] = DataError) -> Any:
    """Parses the text of a file that holds one JSON value.

    Raises:
        LlavaError: of type `error`: not JSON; the message names the file, line and column.
    """
    try:
        with without_garbage_collection():
            return json.loads(text)
    except json.JSONDecodeError as failure:
        raise error(
            f"{path}: not JSON at line {failure.lineno}, column {failure.colno}: {failure.msg}. "
            f"{advice_on(failure) if text.strip() else 'The file is empty.'}"
        ) from None
    except (RecursionError, ValueError) as failure:
        raise error(f"{path}: not JSON that can be read: {why_unreadable(failure)}.") from None


def read_json_object(
    path: str | Path, *, remedy: str = "Check the path.", error: type[LlavaError] = DataError
) -> dict[str, Any]:
    """Reads one JSON object; arguments and errors are those of `read_json`.

    Raises:
        LlavaError: of type `error`: as `read_json`, or the file holds another JSON value.
    """
    content = read_json(path, remedy=remedy, error=error)
    if not isinstance(content, dict):
        raise error(f"{path}: expected a JSON object, found a {json_type(content)}.")
    return content


def read_jsonl(path: str | Path, *, remedy: str = "Check the path.", still_growing: bool = False) -> list[Line]:
    """Reads a JSON Lines file, one object per line; empty lines are counted and skipped.

    Args:
        path: the file.
        remedy: last sentence of the message if the file is missing or a folder.
        still_growing: another process is writing the file, so text after the last line end is skipped.

    Raises:
        DataError: as `read_json`, or a line does not hold a JSON object.
    """
    text = read_text(path, remedy=remedy)
    # Python's splitlines would also split at other characters, which JSON allows inside a string.
    pieces = text.split("\n")
    if still_growing:
        pieces.pop()
    with without_garbage_collection():
        return [
            Line(number, _parse_line(piece, f"{path}: line {number}", is_last=number == len(pieces)))
            for number, piece in enumerate(pieces, start=1)
            if piece and not piece.isspace()
        ]


def _parse_line(text: str, place: str, *, is_last: bool) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        advice = _line_advice(error, is_last=is_last)
        raise DataError(f"{place}: not JSON at column {error.colno}: {error.msg}. {advice}") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{place}: not JSON that can be read: {why_unreadable(error)}.") from None
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected a JSON object, found a {json_type(record)}.")
    return record


def read_text(path: str | Path, *, remedy: str = "Check the path.", error: type[LlavaError] = DataError) -> str:
    """Reads a UTF-8 file without its byte order mark.

    Args:
        path: the file.
        remedy: last sentence of the message if the file is missing or a folder.
        error: type of the error to raise.

    Raises:
        LlavaError: of type `error`: the file is missing, a folder, unreadable, or not UTF-8.
    """
    with named_read_errors(path, remedy=remedy, error=error):
        return Path(path).read_bytes().decode("utf-8-sig")


@contextmanager
def named_read_errors(
    path: str | Path, *, remedy: str = "Check the path.", error: type[LlavaError] = DataError
) -> Iterator[None]:
    """Turns the errors of a block that reads a file into those of `read_text`, which has the same arguments."""
    try:
        yield
    except FileNotFoundError:
        raise error(f"{path}: no such file. {remedy}") from None
    except IsADirectoryError:
        raise error(f"{path}: this is a folder, not a file. {remedy}") from None
    except OSError as failure:
        raise error(f"{path}: cannot be read: {failure.strerror or failure}.") from failure
    except UnicodeDecodeError as failure:
        raise error(f"{path}: not UTF-8 text at byte {failure.start}. Save the file as UTF-8.") from None


def json_type(value: Any) -> str:
    """Returns the name of a value's JSON type: object, list, string, boolean, number or null."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes one JSON value and creates the folder.

    Raises:
        InvalidRequest: `path` is a folder.
    """
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_jsonl(path: str | Path, records: Iterable[Any]) -> None:
    """Writes a JSON Lines file and creates the folder.

    Raises:
        InvalidRequest: `path` is a folder.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 file and creates the folder.

    Raises:
        InvalidRequest: `path` is a folder.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files of a command to its --output folder and lists them on standard error.

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
    """Yields a temporary path to write to, and renames it to `path` if the block succeeds.

    Readers see the old file or the complete new one; after an error, nothing is left behind. Creates the folder.

    Raises:
        InvalidRequest: `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InvalidRequest(f"{path}: this is a folder. Give the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        # The error of a full disk names no file, and a temporary name means little to a user.
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Pauses garbage collection, which would double the time of creating millions of small objects that all stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def why_unreadable(error: Exception) -> str:
    """Says why Python gave up on JSON that may be well-formed, from the RecursionError or ValueError that it raised."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def advice_on(error: json.JSONDecodeError) -> str:
    """Says what to do about a file that is not JSON."""
    if _ends_early(error):
        return "The file ends there: it was cut off. Download or create it again."
    if error.msg == "Extra data":
        return "The file must hold a single JSON value, not JSON Lines."
    return "Correct the error, or create the file again."


def _line_advice(error: json.JSONDecodeError, *, is_last: bool) -> str:
    if is_last and _ends_early(error):
        return "The file ends there: writing it was interrupted. Let the writer finish, or remove the line."
    return "The file must be JSON Lines: one complete object on each line."


def _ends_early(error: json.JSONDecodeError) -> bool:
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
