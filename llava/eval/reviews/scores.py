"""Reads two scores from a judge's reply: from a JSON object of the requested form, or from a line of two numbers.

Nothing is guessed: a reply with no pair of scores, or with different pairs, has no scores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

_FENCED: Final = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_PAIR: Final = re.compile(rf"[\s*_`([]*{_NUMBER}(?:\s*[,;]\s*|\s+){_NUMBER}[\s*_`)\]]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of the two answers, in the order the judge saw them."""

    first: float
    second: float
    content: str
    """A line with both scores and then the judge's reasons, as in the original's reviews."""
    parsed: str
    """Where the scores were found: `schema`, or `line N` of the reply."""


class NoScores(ValueError):
    """A reply has no valid scores. The message says why in a few words."""


class _Review(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    score_1: float
    score_2: float
    explanation: str = ""


def schema(low: float, high: float) -> dict[str, Any]:
    """Returns the `response_format` that requests two scores between `low` and `high` and an explanation."""
    score = {"type": "number", "minimum": low, "maximum": high}
    fields = {"score_1": score, "score_2": score, "explanation": {"type": "string"}}
    body = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "review", "strict": True, "schema": body}}


def parse_scores(text: str, low: float, high: float) -> Scores:
    """Reads the scores of a reply.

    Scores on a line are on the first line that is not empty, or else on any line of two numbers and nothing else,
    provided that all such lines agree.

    Raises:
        NoScores: the reply has no such object or line, the lines disagree, or a score is not from `low` to `high`.
    """
    if not text.strip():
        raise NoScores("the reply is empty")
    scores = _from_object(text) or _from_lines(text)
    for score in (scores.first, scores.second):
        if not low <= score <= high:
            raise NoScores(f"the score {score:g} is not from {low:g} to {high:g}")
    return scores


def starts_with_scores(text: str) -> bool:
    """Returns whether the first line of a review is two numbers."""
    return _PAIR.fullmatch(text.strip().partition("\n")[0]) is not None


def _from_object(text: str) -> Scores | None:
    fenced = _FENCED.fullmatch(text)
    body = fenced[1] if fenced else text
    if not body.lstrip().startswith("{"):
        return None
    try:
        review = _Review.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the object"
        raise NoScores(f"{field}: {first['msg']}") from None
    content = f"{review.score_1:g} {review.score_2:g}\n{review.explanation.strip()}".rstrip()
    return Scores(review.score_1, review.score_2, content, "schema")


def _from_lines(text: str) -> Scores:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    pairs = [(number, match) for number, line in lines if (match := _PAIR.fullmatch(line))]
    if pairs and pairs[0][0] == lines[0][0]:
        pairs = pairs[:1]
    values = {(float(match[1]), float(match[2])) for _, match in pairs}
    if len(values) != 1:
        raise NoScores("several lines hold two numbers" if values else "no line holds two numbers and nothing else")
    first, second = values.pop()
    return Scores(first, second, text.strip(), f"line {pairs[0][0]}")
