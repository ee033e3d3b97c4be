"""Looks for what a record may hold but a user would want to know of, and for images that do not exist."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from llava.conversation import Conversation, SeparatorStyle
from llava.errors import DataError
from llava.train.data.layouts import turn_problem
from llava.train.data.records import ASSISTANT, HUMAN, Record

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTROL_TOKENS = re.compile(r"</?s>|<unk>|\[PAD\]|<im_patch>|<im_start>|<im_end>|<\|im_(?:start|end)\|>")
_PROGRESS_AFTER_S = 0.3


@dataclass(frozen=True, slots=True)
class RecordFinding:
    """Something about a record that a user should know."""

    kind: str
    """What it is, the same words for all records of this kind."""
    name: str
    """Name of the record."""
    text: str
    """What was found in this record."""
    is_error: bool = False
    """Whether training refuses the record."""


def findings_of(record: Record, template: Conversation) -> Iterator[RecordFinding]:
    """Yields what is worth knowing about a record that is going to be trained in a template."""
    problem = turn_problem(record, template)
    if problem is not None:
        yield RecordFinding("turns that the template cannot hold", record.name, problem, is_error=True)
    answers = [turn.text for turn in record.turns if turn.role == ASSISTANT]
    if not any(text.strip() for text in answers):
        yield RecordFinding("no answer to learn", record.name, "every answer is blank")
    elif not all(text.strip() for text in answers):
        yield RecordFinding("blank answers", record.name, "an answer is blank")
    if problem is None:
        yield from _order_findings(record)
    signal = _stop_signal(template)
    for number, turn in enumerate(record.turns):
        place = record.place_of(number)
        if found := _CONTROL.search(turn.text):
            yield RecordFinding("control characters", record.name, f"{place} holds {found[0]!r}")
        if found := _CONTROL_TOKENS.search(turn.text):
            yield RecordFinding(
                "control tokens in the text", record.name, f"{place} spells {found[0]}, which is trained as text"
            )
        if turn.role == ASSISTANT and signal is not None and (found := signal.search(turn.text)):
            yield RecordFinding(
                "signals of the template in an answer",
                record.name,
                f"{place} holds {found[0].strip()!r}; a model that learns to write it ends its answers there",
            )


def _order_findings(record: Record) -> Iterator[RecordFinding]:
    roles = [turn.role for turn in record.turns]
    if any(first == second for first, second in pairwise(roles)):
        yield RecordFinding("two turns in a row from the same role", record.name, "the turns do not alternate")
    if roles[0] != HUMAN:
        yield RecordFinding("an answer comes first", record.name, "later templates drop an answer without a question")
    if roles[-1] == HUMAN:
        yield RecordFinding("a question comes last", record.name, "the last question has no answer")


def _stop_signal(template: Conversation) -> re.Pattern[str] | None:
    """Returns a pattern of what starts a turn in a template."""
    human, assistant = (re.escape(role.strip()) for role in template.roles[:2])
    if template.sep_style is SeparatorStyle.HEADED:
        return re.compile(rf"{re.escape(template.sep)} ?(?:{human}|{assistant}):")
    if template.sep_style is SeparatorStyle.TWO:
        return re.compile(rf"(?:^|\s)(?:{human}|{assistant}):")
    if template.sep_style is SeparatorStyle.LLAMA_2:
        return re.compile(r"\[/?INST\]|<</?SYS>>")
    return None


def check_records(records: Sequence[Record], template: Conversation) -> list[str]:
    """Checks all records against a template.

    Returns:
        One line for each kind of finding that does not prevent training, with the number of records.

    Raises:
        DataError: records do not fit the template; the message names the first and the number of others.
    """
    counts: Counter[str] = Counter()
    first: dict[str, RecordFinding] = {}
    errors: list[RecordFinding] = []
    for record in records:
        kinds = set()
        for finding in findings_of(record, template):
            if finding.is_error:
                errors.append(finding)
            elif finding.kind not in kinds:
                kinds.add(finding.kind)
                first.setdefault(finding.kind, finding)
        counts.update(kinds)
    if errors:
        others = f" {len(errors) - 1} more records do not fit either." if len(errors) > 1 else ""
        raise DataError(f"{errors[0].name}: {errors[0].text}{others}")
    return [
        f"data: {count:,} {'record' if count == 1 else 'records'} with {kind}; the first is {first[kind].name}"
        for kind, count in counts.most_common()
    ]


def missing_images(records: Sequence[Record], folder: Path, *, shows_progress: bool = True) -> list[RecordFinding]:
    """Looks for the images of all records, reading each folder once instead of asking for each file.

    Args:
        folder: folder that the image paths are relative to.
        shows_progress: whether to print a line if this takes longer than a moment.
    """
    started, said = time.monotonic(), False
    known: dict[Path, set[str] | None] = {}
    missing = []
    for number, record in enumerate(records):
        for image in record.images:
            path = folder / image
            if path.parent not in known:
                known[path.parent] = _names_in(path.parent)
            names = known[path.parent]
            if (names is None or path.name not in names) and not path.is_file():
                missing.append(
                    RecordFinding("missing images", record.name, f"image {path} does not exist", is_error=True)
                )
        if shows_progress and not said and time.monotonic() - started > _PROGRESS_AFTER_S:
            said = True
            print(f"[llava.train] looking for the images of {len(records):,} records ...", flush=True)
        elif said and number % 50_000 == 0:
            print(f"[llava.train] looked for the images of {number:,} of {len(records):,} records", flush=True)
    return missing


def _names_in(folder: Path) -> set[str] | None:
    try:
        with os.scandir(folder) as entries:
            return {sys.intern(entry.name) for entry in entries if not entry.is_dir()}
    except OSError:
        return None


def refuse_missing(missing: Sequence[RecordFinding]) -> None:
    """
    Raises:
        DataError: images are missing; the message names the first and the number of others.
    """
    if missing:
        others = f" {len(missing) - 1} more images are missing." if len(missing) > 1 else ""
        raise DataError(
            f"{missing[0].name}: {missing[0].text}.{others} Check --image_folder, or set --on_bad_sample skip to train "
            "without these records."
        )


def describe_findings(findings: Iterable[RecordFinding]) -> Counter[str]:
    """Counts findings by kind."""
    return Counter(finding.kind for finding in findings)
