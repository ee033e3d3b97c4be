"""`/set NAME=VALUE`: how answers are made, checked when it is said and not when it fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final

from llava.errors import InvalidRequest
from llava.serve.client.conversation import AnswerSettings
from llava.serve.client.images import SHAPES
from llava.text_generation.settings import Sampling

MAX_TOKENS: Final = 1_000_000
"""What our servers take."""


def _number(text: str) -> float:
    return float(text)


def _whole(text: str) -> int:
    return int(text)


def _seed(text: str) -> int | None:
    return None if text.lower() in ("none", "off", "") else int(text)


def _shape(text: str) -> str:
    return {shape.lower(): shape for shape in SHAPES}[text.lower()]


_READERS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "temperature": (_number, "a number from 0 (always the likeliest word) to 2"),
    "top_p": (_number, "a number above 0 and at most 1, which is off"),
    "max_tokens": (_whole, f"a whole number from 1 to {MAX_TOKENS}"),
    "seed": (_seed, "a whole number, or none"),
    "shape": (_shape, " or ".join(shape.lower() for shape in SHAPES)),
}
_ALIASES: Final = {"max_new_tokens": "max_tokens", "topp": "top_p"}
NAMES: Final = tuple(_READERS)


def changed(settings: AnswerSettings, assignment: str) -> AnswerSettings:
    """The settings with `NAME=VALUE` (or `NAME VALUE`) put in.

    Raises:
        InvalidRequest: no such setting, or a value that it cannot have; says which it can.
    """
    name, _, value = assignment.replace("=", " ", 1).strip().partition(" ")
    key = name.strip().lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    if key not in _READERS:
        close = get_close_matches(key, NAMES, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(NAMES)}."
        raise InvalidRequest(f"no setting is called {name!r}. {hint}")
    read, expected = _READERS[key]
    try:
        return checked(dataclasses.replace(settings, **{key: read(value.strip())}))
    except (ValueError, KeyError) as error:
        raise InvalidRequest(f"{key} cannot be {value.strip()!r}; it is {expected}.") from error


def checked(settings: AnswerSettings) -> AnswerSettings:
    """The settings, if an engine takes them.

    Raises:
        InvalidRequest: a value out of its bounds.
    """
    Sampling(settings.temperature, settings.top_p, max_new_tokens=settings.max_tokens, seed=settings.seed)
    if settings.max_tokens > MAX_TOKENS:
        raise InvalidRequest(f"max_tokens is {settings.max_tokens}; it must be at most {MAX_TOKENS}.")
    return settings


def described(settings: AnswerSettings) -> list[tuple[str, str, str]]:
    """Name, value and possible values of each."""
    values = {name: str(getattr(settings, name)) for name in NAMES}
    values |= {name: values[name].lower() for name in ("seed", "shape")}
    return [(name, values[name], text) for name, (_, text) in _READERS.items()]
