"""Reads a JSON list or a JSON Lines file one item at a time, so that a large file is never in memory as a whole."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from llava.errors import DataError
from llava.files.json_files import advice_on, json_type, named_read_errors, parse_json, read_text, why_unreadable

_BLOCK_BYTES = 1 << 20
_LINES_SUFFIXES = (".jsonl", ".ndjson")
_SPACE = " \t\r\n"
_OF_NUMBERS = ("", *"0123456789.eE+-")
"""What may follow the beginning of a number, the end of the window included."""


class Item(NamedTuple):
    """One item of a file."""

    place: str
    """`record N` of a list, counted from 0, or `line N`, counted from 1."""
    value: Any
    """The JSON value; None if the line has none."""
    problem: str | None = None
    """Why a line has no value, such as "not JSON at column 2: ..."; None if it has one."""


def read_items(path: str | Path, *, remedy: str = "Check the path.") -> Iterator[Item]:
    """Yields the items of a file. Its content says whether it is a list or JSON Lines; its name decides in doubt.

    Args:
        path: the file; UTF-8, with or without a byte order mark.
        remedy: last sentence of the message if the file is missing or a folder.

    Raises:
        DataError: the file is missing, a folder, unreadable, not UTF-8, a list with an error, or of neither form. The
            message names the file, line and column. A line that is not JSON raises nothing; its item has a `problem`.
    """
    path = Path(path)
    with named_read_errors(path, remedy=remedy), path.open("rb") as file:
        first = _first_character(file)
        is_lines = path.suffix.lower() in _LINES_SUFFIXES or (first == b"{" and _starts_with_an_object(file))
        if first == b"[":
            yield from _ListReader(path, file).items()
            return
        if is_lines:
            file.seek(0)
            yield from _lines(file)
            return
    content = parse_json(read_text(path, remedy=remedy), path)
    raise DataError(f"{path}: expected a list of records, found a JSON {json_type(content)}.")


def _first_character(file: IO[bytes]) -> bytes:
    """Returns the first character that is not white space, where the file then stands; b"" if there is none."""
    start = 0
    if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
        start = len(codecs.BOM_UTF8)
    file.seek(start)
    while block := file.read(_BLOCK_BYTES):
        if text := block.lstrip():
            file.seek(-len(text), 1)
            return text[:1]
    return b""


def _starts_with_an_object(file: IO[bytes]) -> bool:
    """Tells whether the line at which a file stands is a JSON object, and something follows it."""
    first = file.readline()
    if not any(line.strip() for line in file):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(file: IO[bytes]) -> Iterator[Item]:
    # Only "\n" ends a line; Python's text mode would also split at other characters, which JSON allows in a string.
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if content.isspace() or not content:
            continue
        value, problem = None, None
        try:
            value = json.loads(content.decode("utf-8"))
        except json.JSONDecodeError as error:
            problem = f"not JSON at column {error.colno}: {error.msg}"
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 text at byte {error.start} of the line"
        except (RecursionError, ValueError) as error:
            problem = f"not JSON that can be read: {why_unreadable(error)}"
        yield Item(f"line {number}", value, problem)


class _ListReader:
    """Reads a JSON list through a window of its text, which grows until it holds a whole item."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._position = "", 0
        self._line, self._column = 1, 1  # place of the window's start
        self._at_end = False
        file.seek(0)

    def items(self) -> Iterator[Item]:
        number = 0
        self._expect("[")
        if self._next() == "]":
            self._position += 1
        else:
            while True:
                yield Item(f"record {number}", self._value(number))
                number += 1
                if self._next() == "]":
                    self._position += 1
                    break
                self._expect(",")
        if self._next():
            self._fail("Extra data")

    def _value(self, number: int) -> Any:
        self._next()
        while True:
            try:
                value, end = self._parse(self._text, self._position)
                # At the border of the window, a number may go on: "1" is the beginning of "1e-7".
                if self._at_end or self._text[end : end + 1] not in _OF_NUMBERS:
                    self._position = end
                    return value
                failure = None
            except json.JSONDecodeError as error:
                failure = error
            except (RecursionError, ValueError) as error:
                raise DataError(f"{self._path}: record {number} cannot be read: {why_unreadable(error)}.") from None
            if failure is not None and self._at_end:
                self._raise(failure)
            self._grow()

    def _next(self) -> str:
        """Moves to the next character that is not white space, and returns it; "" at the end of the file."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in _SPACE:
                self._position += 1
            if self._position < len(self._text):
                return self._text[self._position]
            if self._at_end:
                return ""
            self._grow()

    def _expect(self, character: str) -> None:
        if self._next() != character:
            self._fail(f"Expecting {character!r} delimiter")
        self._position += 1

    def _grow(self) -> None:
        """Drops what has been read, and reads on: as much again, so that an item of any length is tried a few times."""
        self._line, self._column = self._place(self._position)
        rest = self._text[self._position :]
        block = self._file.read(max(_BLOCK_BYTES, len(rest)))
        self._at_end = not block
        try:
            self._text, self._position = rest + self._decoder.decode(block, final=self._at_end), 0
        except UnicodeDecodeError:
            read_text(self._path)  # its error counts the bytes from the start of the file
            raise

    def _place(self, position: int) -> tuple[int, int]:
        line_ends = self._text.count("\n", 0, position)
        if not line_ends:
            return self._line, self._column + position
        return self._line + line_ends, position - self._text.rfind("\n", 0, position)

    def _fail(self, reason: str) -> NoReturn:
        while not self._at_end:
            self._grow()  # whether the error is at the end of the file is part of the message
        self._raise(json.JSONDecodeError(reason, self._text, self._position))

    def _raise(self, failure: json.JSONDecodeError) -> NoReturn:
        line, column = self._place(failure.pos)
        raise DataError(
            f"{self._path}: not JSON at line {line}, column {column}: {failure.msg}. {advice_on(failure)}"
        ) from None
