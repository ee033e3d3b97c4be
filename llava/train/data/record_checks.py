"""Looks for what a record may hold but a user would want to know of, and for images that do not exist."""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from llava.conversation import Conversation, SeparatorStyle
from llava.errors import DataError
from llava.train.data.layouts import turn_problem
from llava.train.data.records import ASSISTANT, HUMAN, Record, has_words

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
"""Control characters, and what Unicode never assigns."""
_CONTROL_TOKENS = re.compile(r"</?s>|<unk>|\[PAD\]|<im_patch>|<im_start>|<im_end>|<\|im_(?:start|end)\|>")
_PLACEHOLDER = re.compile(
    r"<(?:img|image[ _-]?\d+|image_placeholder|video|audio)>|<\|(?:image|video|audio)[^|>]*\|>", re.I
)
"""Places of images in the formats of other programs; `<IMAGE>` is one as well."""
_MISSPELT = re.compile("<image>", re.I)
_PROGRESS_AFTER_S = 0.3
_PROGRESS_EVERY = 50_000
_SHOWN = 300
"""Longest path to show in a message."""


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
    if not any(map(has_words, answers)):
        yield RecordFinding("no answer to learn", record.name, "every answer is blank")
    elif not all(map(has_words, answers)):
        yield RecordFinding("blank answers", record.name, "an answer is blank")
    if problem is None:
        yield from _order_findings(record)
    if record.system is not None:
        yield from _text_findings(record, record.system, None)
    signal = _stop_signal(template)
    for number, turn in enumerate(record.turns):
        yield from _text_findings(record, turn.text, number)
        if turn.role == HUMAN:
            if not has_words(turn.text):
                yield RecordFinding("blank questions", record.name, f"{record.place_of(number)} is blank")
        elif signal is not None and (found := signal.search(turn.text)):
            yield RecordFinding(
                "signals of the template in an answer",
                record.name,
                f"{record.place_of(number)} holds {found[0].strip()!r}; a model that learns to write it ends its "
                "answers there",
            )


def _text_findings(record: Record, text: str, number: int | None) -> Iterator[RecordFinding]:
    """Yields what is worth knowing about a text; `number` is that of its turn, None for the system turn."""
    # Nearly all texts are printable but for their line ends, and have none of the signs that begin a token. These two
    # questions are much faster than the patterns.
    is_printable = text.replace("\n", "").isprintable()
    if is_printable and "<" not in text and "[" not in text:
        return
    place = "turn 0 (counting from 0)" if number is None else record.place_of(number)
    if not is_printable and (found := _CONTROL.search(text)):
        yield RecordFinding("control characters", record.name, f"{place} holds {found[0]!a}")
    if found := _CONTROL_TOKENS.search(text):
        yield RecordFinding(
            "control tokens in the text", record.name, f"{place} spells {found[0]}, which is trained as text"
        )
    found = _PLACEHOLDER.search(text) or next((m for m in _MISSPELT.finditer(text) if m[0] != "<image>"), None)
    if found:
        text = f"{place} has {found[0]}, which is trained as text; the marker of an image is <image>"
        yield RecordFinding("image markers of other formats", record.name, text)


def _order_findings(record: Record) -> Iterator[RecordFinding]:
    roles = [turn.role for turn in record.turns]
    if any(first == second for first, second in pairwise(roles)):
        yield RecordFinding("two turns in a row from the same role", record.name, "the turns do not alternate")
    if roles[0] != HUMAN:
        yield RecordFinding("an answer comes first", record.name, "later templates drop an answer without a question")
    if roles[-1] == HUMAN:
        yield RecordFinding("a question comes last", record.name, "the last question has no answer")


def _stop_signal(template: Conversation) -> re.Pattern[str] | None:
    """Returns a pattern of what ends an answer in a template, but for its control tokens."""
    human, assistant = (re.escape(role.strip()) for role in template.roles[:2])
    if template.sep_style is SeparatorStyle.HEADED:
        return re.compile(rf"{re.escape(template.sep)}(?: ?(?:{human}|{assistant}):)?")
    if template.sep_style is SeparatorStyle.TWO:
        return re.compile(rf"(?:^|\s)(?:{human}|{assistant}):")
    if template.sep_style is SeparatorStyle.LLAMA_2:
        return re.compile(r"\[/?INST\]|<</?SYS>>")
    return None


def check_records(records: Sequence[Record], template: Conversation, *, file: str, version: str) -> list[str]:
    """Checks all records against a template.

    Args:
        file: the training file, for messages.
        version: the name by which the template was chosen, for messages.

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
        others = ""
        if len(errors) > 1:
            command = f"llava data check {file} --version {version}"
            others = f" {len(errors) - 1:,} more records do not fit either; list them: {command}"
        raise DataError(f"{errors[0].name}: {errors[0].text}{others}")
    return [
        f"data: {count:,} {'record' if count == 1 else 'records'} with {kind}; the first is {first[kind].name}"
        for kind, count in counts.most_common()
    ]


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An image that a record names and that cannot be opened."""

    name: str
    """Name of the record."""
    image: str
    """The path in the record."""
    reason: str
    """What is wrong, with the path."""


def missing_images(
    records: Sequence[Record], folder: Path, *, say: Callable[[str], None] = print
) -> list[MissingImage]:
    """Looks for the images of all records, reading each folder once instead of asking for each file.

    Args:
        folder: folder that the image paths are relative to.
        say: told how far this has come if it takes longer than a moment.
    """
    started, said = time.monotonic(), False
    root = str(folder)
    known: dict[str, frozenset[str]] = {}
    faults: dict[str, str | None] = {}
    missing = []
    for number, record in enumerate(records):
        for image in record.images:
            path = image if image.startswith("/") else f"{root}/{image}"
            place, name = os.path.split(path)
            if place not in known:
                known[place] = _files_in(place)
            if name in known[place]:
                continue
            if image not in faults:
                faults[image] = _fault(path)
            if (fault := faults[image]) is not None:
                missing.append(MissingImage(record.name, image, fault))
        if number % 100:
            continue
        if not said and time.monotonic() - started > _PROGRESS_AFTER_S:
            said = True
            say(f"looking for the images of {len(records):,} records ...")
        elif said and number % _PROGRESS_EVERY == 0:
            say(f"looked for the images of {number:,} of {len(records):,} records")
    return missing


def _files_in(folder: str) -> frozenset[str]:
    """Returns the names of the regular files in a folder, and of links to such; none if it cannot be read."""
    try:
        with os.scandir(folder or ".") as entries:
            return frozenset(entry.name for entry in entries if _is_file(entry))
    except (OSError, ValueError):
        return frozenset()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _fault(path: str) -> str | None:
    """Says why a path is not that of a file; None if it is."""
    shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        advice = "; write / between folders, not \\" if "\\" in path else ""
        return f"image {shown} does not exist{advice}"
    except OSError as error:
        return f"image {shown} cannot be opened ({error.strerror})"
    return None if stat.S_ISREG(mode) else f"image {shown} is not a file"


def judge_missing(
    missing: Sequence[MissingImage], *, file: str, folder: Path, policy: str, maximum: int | None = None
) -> list[str]:
    """Applies `--on_bad_sample` to images that are missing, before anything is loaded.

    Args:
        missing: from `missing_images`.
        file: the training file, for messages.
        folder: the image folder, for messages.
        policy: "stop" or "skip".
        maximum: number of records that may be skipped; None for no limit.

    Returns:
        What to tell about the records that the run will skip.

    Raises:
        DataError: the policy is to stop, or too many would be skipped; the message names the first and the number of
            others.
    """
    if not missing:
        return []
    count = len({item.name for item in missing})
    text = f"{missing[0].name}: {missing[0].reason}."
    if count > 1:
        text += (
            f" {count - 1:,} more records lack an image; list them: llava data check {file} --image-folder {folder}."
        )
    if policy == "stop":
        raise DataError(
            f"{text} Check --image_folder, or set --on_bad_sample skip to train without the records that lack an image."
        )
    if maximum is not None and count > maximum:
        raise DataError(f"{text} That is more than --max_bad_samples {maximum}.")
    what = "1 record lacks an image" if count == 1 else f"{count:,} records lack an image"
    return [f"data: {what} and will be skipped; the first is {missing[0].name}: {missing[0].reason}"]
