"""Reads the arena's votes from the logs of the web page.

A log has one JSON object per line, in FastChat's format, and its name ends in `-conv.json`. Battles are mixed with
chats, votes on single models and flags:

    {"tstamp": 1690000000.1234, "type": "leftvote", "models": ["", ""],
     "states": [{"conv_id": "5a1c", "model_name": "llava-7b"}, {"conv_id": "77f0", "model_name": "llava-13b"}],
     "ip": "192.0.2.1"}

`models` is what the page showed above the two answers. In the named arena these are the names. In the anonymous one
they are empty (or "Model A" and "Model B") until the first vote, then "Model A: llava-7b" and "Model B: llava-13b",
with "###" or "<h3>" around them in some versions. A vote on answers whose names are shown is not anonymous. `states`
names the models that answered. Addresses are not read, so no report can tell who voted.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from llava.errors import DataError

LOG_SUFFIX: Final = "-conv.json"

OTHER_TYPES: Final = frozenset({"chat", "upvote", "downvote", "flag", "share"})
"""Types of lines in the same logs that are not battles."""

HOW_TO_GET_VOTES: Final = (
    "To get votes, start the web page with `llava web --log-dir FOLDER`, vote in its arena, and give FOLDER here."
)

_LABEL: Final = re.compile(r"(?:#+ *|<h\d>)?Model [AB](?:: (?P<name>.+?))?(?:</h\d>)?")
_SIDES: Final = ("left", "right")
_FAR_FUTURE_S: Final = 32_503_680_000.0  # the year 3000, which a time in milliseconds exceeds


class Vote(str, Enum):
    """The `type` of a line that is a battle."""

    LEFT = "leftvote"
    RIGHT = "rightvote"
    TIE = "tievote"
    BOTH_BAD = "bothbad_vote"


@dataclass(frozen=True, slots=True)
class Battle:
    """One vote on the answers of two models."""

    tstamp: float
    """Seconds since 1970, UTC."""
    vote: Vote
    left: str
    right: str
    anonymous: bool
    """Whether the page did not show the names when the vote was given."""
    conversation: tuple[str, str] | None
    """Ids of the two conversations, equal if the same one was voted on again; None if the log has no ids."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be read."""

    file: str
    line: int
    """Line number, from 1."""
    problem: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.problem}"


@dataclass(frozen=True, slots=True)
class VoteLog:
    """Everything read from a set of logs."""

    files: tuple[str, ...]
    num_lines: int
    """Number of lines that are not empty."""
    battles: tuple[Battle, ...]
    """Battles in order of time."""
    others: dict[str, int]
    """Number of lines by type, for the types of OTHER_TYPES."""
    bad_lines: tuple[BadLine, ...]


def read_votes(paths: Iterable[str | Path], *, strict: bool = False) -> VoteLog:
    """Reads logs, and folders of logs.

    Args:
        paths: files of any name, and folders, whose files ending in `-conv.json` are read. No file is read twice.
        strict: whether a bad line is an error instead of an entry of `bad_lines`.

    Raises:
        DataError: a path does not exist, a folder has no logs, or, with `strict`, a line is bad.
    """
    files = _find(paths)
    num_lines = 0
    battles: list[Battle] = []
    others: Counter[str] = Counter()
    bad_lines: list[BadLine] = []
    for file in files:
        for number, line in _lines(file):
            num_lines += 1
            try:
                found = parse_line(line)
            except DataError as error:
                bad = BadLine(str(file), number, str(error))
                if strict:
                    raise DataError(f"{bad}. Repair or remove the line, or omit --strict.") from error
                bad_lines.append(bad)
                continue
            if isinstance(found, Battle):
                battles.append(found)
            else:
                others[found] += 1
    battles.sort(key=lambda battle: battle.tstamp)
    names = tuple(str(file) for file in files)
    return VoteLog(names, num_lines, tuple(battles), dict(sorted(others.items())), tuple(bad_lines))


def parse_line(line: bytes) -> Battle | str:
    """Returns the battle that a line records, or the type of a line that records something else.

    Raises:
        DataError: the line is neither. The message says what is wrong with it, but not where it is.
    """
    row = _json_object(line)
    kind = row.get("type")
    if isinstance(kind, str) and kind in OTHER_TYPES:
        return kind
    try:
        vote = Vote(kind)
    except ValueError:
        raise DataError(f"unknown type {kind!r:.60}" if "type" in row else "no type") from None
    shown, answered, conversation = _shown(row), _answered(row), _conversation(row)
    hidden = [name == "" for name in shown]
    if hidden[0] != hidden[1]:
        raise DataError(f"`models` names the {_SIDES[hidden[0]]} model only")
    left, right = (_name(side, *names) for side, *names in zip(_SIDES, shown, answered, strict=True))
    return Battle(_tstamp(row), vote, left, right, all(hidden), conversation)


def _find(paths: Iterable[str | Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(path.glob(f"*{LOG_SUFFIX}"))
            if not files:
                raise DataError(f"{path}: contains no logs (*{LOG_SUFFIX}). {HOW_TO_GET_VOTES}")
        elif path.exists():
            files = [path]
        else:
            raise DataError(f"{path}: no such file or folder. Give the arena's logs, or the folder that contains them.")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _json_object(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))  # decoded here because json would take zeros for UTF-32
    except UnicodeDecodeError:
        raise DataError("not UTF-8") from None
    except RecursionError:
        raise DataError("nested too deeply") from None
    except ValueError as error:
        whole = line.endswith(b"\n")
        raise DataError(f"not JSON ({error})" if whole else "cut off before the end of the line") from None
    if not isinstance(row, dict):
        raise DataError("not a JSON object")
    return row


def _tstamp(row: Mapping[str, Any]) -> float:
    value = row.get("tstamp")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError("`tstamp` is missing or not a number")
    if not 0 <= value < _FAR_FUTURE_S:
        raise DataError(f"`tstamp` {value!r:.30} is not a time in seconds since 1970")
    return float(value)


def _shown(row: Mapping[str, Any]) -> list[str]:
    """Returns the names that the page showed, left and right, each empty if it showed none."""
    labels = row.get("models")
    if not isinstance(labels, list) or len(labels) != 2 or not all(isinstance(label, str) for label in labels):
        raise DataError("`models` is not a list of two names")
    return [_shown_name(label.strip()) for label in labels]


def _shown_name(label: str) -> str:
    generic = _LABEL.fullmatch(label)
    return generic["name"] or "" if generic else label


def _states(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    states = row.get("states")
    if not isinstance(states, list) or len(states) != 2 or not all(isinstance(state, dict) for state in states):
        raise DataError("`states` is not a list of two conversations")
    return states


def _answered(row: Mapping[str, Any]) -> list[str]:
    """Returns the names of the models that answered, each empty if the conversation has none."""
    names = [state.get("model_name") for state in _states(row)]
    if not all(name is None or isinstance(name, str) for name in names):
        raise DataError("`model_name` in `states` is not a string")
    return [(name or "").strip() for name in names]


def _conversation(row: Mapping[str, Any]) -> tuple[str, str] | None:
    left, right = (str(state.get("conv_id") or "") for state in _states(row))
    return (left, right) if left or right else None


def _name(side: str, shown: str, answered: str) -> str:
    if shown and answered and shown != answered:
        raise DataError(f"the page named {shown!r:.80} on the {side}, but {answered!r:.80} answered")
    name = answered or shown
    if not name:
        raise DataError(f"the {side} model has no name, neither in `models` nor in `states`")
    if not name.isprintable():
        raise DataError(f"the name of the {side} model has control characters: {name!r:.80}")
    return name
