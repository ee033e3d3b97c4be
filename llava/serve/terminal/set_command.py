"""Carries out `/set NAME=VALUE`: values are checked when they are typed, not when the next question fails."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from typing import Final

from llava.errors import InvalidRequest
from llava.serve.client.answer_settings import SETTINGS, AnswerSettings

_ALIASES: Final = {"max_new_tokens": "max_tokens", "topp": "top_p"}


def changed(settings: AnswerSettings, assignment: str) -> AnswerSettings:
    """Returns the settings with `NAME=VALUE` (or `NAME VALUE`) applied.

    Raises:
        InvalidRequest: there is no such setting, or it cannot have this value; says which it can.
    """
    name, _, value = assignment.replace("=", " ", 1).strip().partition(" ")
    key = name.strip().lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    if key not in SETTINGS:
        close = get_close_matches(key, SETTINGS, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Settings: {', '.join(SETTINGS)}."
        raise InvalidRequest(f"there is no setting {name!r}. {hint}")
    info = SETTINGS[key]
    try:
        settings = dataclasses.replace(settings, **{key: info.read(value.strip())})
    except (ValueError, KeyError) as error:
        raise InvalidRequest(f"{key} cannot be {value.strip()!r}; expected {info.expected}.") from error
    settings.check()
    return settings


def described(settings: AnswerSettings) -> list[tuple[str, str, str]]:
    """Returns name, value and possible values of each setting."""
    values = {name: str(getattr(settings, name)) for name in SETTINGS}
    values |= {name: values[name].lower() for name in ("seed", "shape")}
    return [(name, values[name], info.expected) for name, info in SETTINGS.items()]
