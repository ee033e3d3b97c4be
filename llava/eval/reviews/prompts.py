"""Lays out what a judge reads as in the original's reviews: question, two answers, and what the image shows.

Questions, answers and contexts are joined by id and by image, never by the order of their lines.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from llava.errors import DataError
from llava.eval.data.records import Joined, locate, read_answers, read_questions, some
from llava.eval.reviews.contexts import ContextForm, Contexts, read_contexts
from llava.files.json_files import json_type, read_json

Order = Literal["forward", "swapped"]

SYSTEM: Final = "You are an impartial and careful examiner who compares two answers to the same question."
DEFAULT_CATEGORY: Final = "default"


@dataclass(frozen=True, slots=True)
class ReviewKind:
    """What distinguishes the three review commands."""

    context: ContextForm
    """What the judge is told about the image: nothing, captions and boxes, or one caption."""
    prefix: str = ""
    """Prefix of a question's category in the rule file."""
    has_default: bool = False
    """Whether a category without a rule is judged by the rule `default`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule by which answers to one category of questions are judged."""

    role: str
    """Name of an answerer in the prompt, such as `Assistant`."""
    prompt: str


@dataclass(frozen=True, slots=True)
class Rules:
    """A rule file: a JSON object of `{"role", "prompt"}` by category."""

    path: Path
    by_category: Mapping[str, Rule]
    sha256: str
    """Hash of the file's bytes."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two answers to a question."""

    text: str
    answer_id: Any
    model: str | None


@dataclass(frozen=True, slots=True)
class ReviewPrompt:
    """One request to the judge."""

    number: int
    """Place of the question in its file, from 1. The numbers of swapped prompts follow those of all others."""
    identity: str
    question_id: Any
    """Id as it is in the question file."""
    category: str
    image: str | None
    order: Order
    answers: tuple[Side, Side] = field(repr=False)
    """The answers in the order of their files, whichever one the judge sees first."""
    text: str = field(repr=False)
    """The user's message."""
    sha256: str
    """Hash of the system's and the user's message."""

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"question {self.identity}" + (" with the answers exchanged" if self.order == "swapped" else "")

    @property
    def key(self) -> tuple[str, Order]:
        """Question id and order, which identify a prompt."""
        return self.identity, self.order


@dataclass(frozen=True, slots=True)
class ReviewSet:
    """The prompts of one review run, and the rules behind them."""

    prompts: tuple[ReviewPrompt, ...]
    """Forward and swapped prompts, in the order of their numbers."""
    system: str
    rules: Rules
    notes: tuple[str, ...]
    """What readers of the figures must know about the files."""


def read_rules(path: Path) -> Rules:
    """Reads a rule file.

    Raises:
        DataError: the file is not a rule file. The message names file and category.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not value:
        raise DataError(
            f'{path}: is a JSON {json_type(value)}, expected an object of {{"role", "prompt"}} by category.'
        )
    rules = {}
    for category, rule in value.items():
        for name in ("role", "prompt"):
            if not isinstance(rule, dict) or not isinstance(rule.get(name), str) or not rule[name].strip():
                raise DataError(f"{path}: category {category!r}: {name!r} is missing or not a string.")
        rules[category] = Rule(rule["role"], rule["prompt"])
    return Rules(path, rules, hashlib.sha256(path.read_bytes()).hexdigest())


def read_review_set(
    kind: ReviewKind,
    *,
    question: str,
    answers: tuple[str, str],
    rule: str,
    context: str | None = None,
    system: str = SYSTEM,
    skip_missing: bool = False,
) -> ReviewSet:
    """Reads and joins the files, and lays out every prompt in both orders.

    Raises:
        DataError: a file cannot be read, or a question lacks an answer, a context or a rule. The message names ids and
            files.
    """
    questions = read_questions(locate(question))
    sides = [read_answers(locate(path, remedy="Make it with model_vqa.")) for path in answers]
    rules = read_rules(locate(rule))
    contexts = read_contexts(kind.context, context)
    if questions.duplicates:
        raise DataError(f"{questions.path}: asks {some(questions.duplicates)} more than once. Remove the duplicates.")
    notes = [note for side in sides for note in _odd_answers(side, questions)]
    asked = _answered(questions, sides, skip_missing, notes)
    prompts = [
        _prompt(kind, order, questions, identity, number, sides, rules, contexts, system)
        for order in ("forward", "swapped")
        for number, identity in asked
    ]
    return ReviewSet(tuple(prompts), system, rules, tuple(notes))


def prompt_sha256(system: str, text: str) -> str:
    return hashlib.sha256(json.dumps([system, text]).encode()).hexdigest()


# Files


def _answered(questions: Joined, sides: list[Joined], skip: bool, notes: list[str]) -> list[tuple[int, str]]:
    """Returns the questions that both files answer, with their place in the question file."""
    for side in sides:
        missing = [identity for identity in questions.lines if identity not in side.lines]
        if not missing:
            continue
        what = f"{side.path}: no answer to {len(missing)} of {len(questions.lines)} questions ({some(missing)})"
        if not skip:
            raise DataError(f"{what}. Answer them first, or leave them out with --skip-missing.")
        notes.append(f"{what}; left out.")
    asked = [
        (number, identity)
        for number, identity in enumerate(questions.lines, start=1)
        if all(identity in side.lines for side in sides)
    ]
    if not asked:
        raise DataError(
            f"{questions.path}: none of its questions is answered in both files. Do the files belong together?"
        )
    return asked


def _odd_answers(side: Joined, questions: Joined) -> list[str]:
    unknown = [identity for identity in side.lines if identity not in questions.lines]
    empty = [i for i in side.lines if i in questions.lines and not str(side.lines[i].record.get("text", "")).strip()]
    found = {
        "ids that no question has": unknown,
        "questions answered more than once (the last answer counts)": side.duplicates,
        "empty answers, which are judged as they are": empty,
    }
    return [f"{side.path}: {what}: {len(ids)} ({some(ids)})." for what, ids in found.items() if ids]


# Layout


def _prompt(
    kind: ReviewKind,
    order: Order,
    questions: Joined,
    identity: str,
    number: int,
    sides: list[Joined],
    rules: Rules,
    contexts: Contexts | None,
    system: str,
) -> ReviewPrompt:
    record = questions.lines[identity].record
    category, rule = _rule(kind, questions, identity, rules)
    answers = (_side(sides[0], identity), _side(sides[1], identity))
    shown = answers if order == "forward" else answers[::-1]
    parts = [f"[Context]\n{contexts.text(questions, identity)}\n\n"] if contexts else []
    parts.append(f"[Question]\n{questions.text(identity, 'text')}\n\n")
    parts += [
        f"[{rule.role} {place}]\n{side.text}\n\n[End of {rule.role} {place}]\n\n"
        for place, side in enumerate(shown, start=1)
    ]
    parts.append(f"[System]\n{rule.prompt}\n\n")
    text = "".join(parts)
    return ReviewPrompt(
        number=number if order == "forward" else len(questions.lines) + number,
        identity=identity,
        question_id=record.get("question_id", record.get("id")),
        category=category,
        image=record["image"] if isinstance(record.get("image"), str) else None,
        order=order,
        answers=answers,
        text=text,
        sha256=prompt_sha256(system, text),
    )


def _side(file: Joined, identity: str) -> Side:
    record = file.lines[identity].record
    model = record.get("model_id")
    answer_id = record.get("answer_id", record.get("question_id"))
    return Side(file.text(identity, "text"), answer_id, model if isinstance(model, str) else None)


def _rule(kind: ReviewKind, questions: Joined, identity: str, rules: Rules) -> tuple[str, Rule]:
    """Returns the category's name in the rule file, and its rule."""
    has_category = "category" in questions.lines[identity].record
    name = kind.prefix + questions.text(identity, "category") if has_category or not kind.has_default else ""
    if name in rules.by_category:
        return name, rules.by_category[name]
    if kind.has_default and DEFAULT_CATEGORY in rules.by_category:
        return name or DEFAULT_CATEGORY, rules.by_category[DEFAULT_CATEGORY]
    raise DataError(
        f"{questions.place(identity)}: category {name!r} has no rule in {rules.path} "
        f"(which has {', '.join(rules.by_category)}). Correct the category, or give another --rule."
    )


def print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
