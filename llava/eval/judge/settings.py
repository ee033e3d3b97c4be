"""Which model is asked, how, and what it may cost: from flags, a configuration file, and the environment.

A flag wins over the configuration file, the file over the environment. Nothing here has a default model: what a judge
says compares only with what the same judge says, so whoever runs a review chooses it.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Final, Literal, get_args

from llava.errors import DataError, InvalidRequest
from llava.files.json_files import json_type, read_json

ReplyFormat = Literal["auto", "schema", "text"]

CONFIG_VARIABLE: Final = "LLAVA_JUDGE_CONFIG"
MODEL_VARIABLE: Final = "LLAVA_JUDGE_MODEL"


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How to ask; the names are those of the flags and of the configuration file."""

    judge_model: str
    """As the service calls it; a dated snapshot keeps meaning the same model."""
    base_url: str | None = None
    """Of any OpenAI-compatible service; None leaves it to the client: OPENAI_BASE_URL, else OpenAI."""
    max_tokens: int = 1024
    """Of one reply."""
    temperature: float | None = None
    """Not sent where it is None; some models refuse it."""
    reply_format: ReplyFormat = "auto"
    """`schema` asks for JSON of a fixed form, `text` for free text; `auto` for JSON where the service can do it."""
    tries: int = 3
    """Calls for one question until a reply can be used."""
    max_retries: int = 8
    """Of one call, after HTTP 408, 409, 429 and 5xx and lost connections."""
    timeout_s: float = 120.0
    """For one reply."""
    concurrency: int = 1
    """Calls at the same time."""
    price_in: float | None = None
    """Of a million tokens of prompts, in any currency."""
    price_out: float | None = None
    """Of a million tokens of replies."""
    max_cost: float | None = None
    """What all replies in the output may cost, those of earlier runs included."""

    @property
    def has_prices(self) -> bool:
        return self.price_in is not None and self.price_out is not None


_HELP: Final[dict[str, tuple[str, str]]] = {
    "judge_model": ("NAME", f"model that is asked (default: ${MODEL_VARIABLE}; there is no other)"),
    "base_url": ("URL", "an OpenAI-compatible service (default: $OPENAI_BASE_URL, else OpenAI's own)"),
    "max_tokens": ("N", "longest reply, tokens (default: 1024)"),
    "temperature": ("T", "of sampling (default: not sent; the original sent 0.2)"),
    "reply_format": ("FORM", "auto, schema or text: whether to ask for JSON of a fixed form (default: auto)"),
    "tries": ("N", "calls for one question until a reply can be used (default: 3)"),
    "max_retries": ("N", "repeats of a call after HTTP 429, 5xx or a lost connection (default: 8)"),
    "timeout_s": ("SECONDS", "for one reply (default: 120)"),
    "concurrency": (
        "N",
        "calls at the same time (default: 1; whatever it is, a process that is killed loses no more calls than this)",
    ),
    "price_in": ("P", "price of a million tokens of prompts, in any currency (default: unknown)"),
    "price_out": ("P", "price of a million tokens of replies (default: unknown)"),
    "max_cost": ("C", "ask no more once the replies in the output could cost more than this (default: no limit)"),
}
_WHOLE: Final = {"max_tokens": 1, "tries": 1, "max_retries": 0, "concurrency": 1}
"""Fields that are whole numbers, and the least of each."""
_NUMBERS: Final = {"temperature", "timeout_s", "price_in", "price_out", "max_cost"}


def add_judge_arguments(parser: argparse.ArgumentParser, *, leave_out: tuple[str, ...] = ()) -> None:
    """The flags of `JudgeSettings`, and `--config`."""
    group = parser.add_argument_group("the model that is asked")
    for name, (metavar, text) in _HELP.items():
        if name not in leave_out:
            flag = "--" + name.removesuffix("_s").replace("_", "-")
            kind = int if name in _WHOLE else float if name in _NUMBERS else str
            names = (flag, "--model") if name == "judge_model" else (flag,)
            group.add_argument(*names, dest=name, type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--config",
        metavar="FILE",
        help=f'JSON object with any of these, such as {{"judge_model": "..."}} (default: ${CONFIG_VARIABLE}, if set)',
    )


def judge_settings(args: argparse.Namespace) -> JudgeSettings:
    """What `add_judge_arguments` was given, completed from file and environment.

    Raises:
        InvalidRequest: no model, or a value that makes no sense; says where it stands.
        DataError: a configuration file that cannot be read, or has a field that means nothing.
    """
    values: dict[str, Any] = {}
    if os.environ.get(MODEL_VARIABLE):
        values["judge_model"] = os.environ[MODEL_VARIABLE]
    config = args.config or os.environ.get(CONFIG_VARIABLE)
    if config:
        values |= _read_config(config)
    given = {name: getattr(args, name, None) for name in _HELP}
    values |= {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        place = f"--{name.removesuffix('_s').replace('_', '-')}" if given[name] is not None else f"{config}: {name!r}"
        _check(name, value, place)
    if "judge_model" not in values:
        raise InvalidRequest(
            "--judge-model is missing: name the model that judges, best a dated snapshot, here, in a --config file or "
            f"in ${MODEL_VARIABLE}. There is no default, because figures of two judges do not compare."
        )
    settings = JudgeSettings(**values)
    if settings.max_cost is not None and not settings.has_prices:
        raise InvalidRequest("--max-cost needs --price-in and --price-out: the prices of a million tokens.")
    return settings


def _read_config(path: str) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a JSON {json_type(value)}, expected an object.")
    known = [field.name for field in fields(JudgeSettings)]
    for name in value:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(known)}."
            raise DataError(f"{path}: {name!r} means nothing. {hint}")
    return value


def _check(name: str, value: Any, place: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _WHOLE:
        fits = isinstance(value, int) and number and value >= _WHOLE[name]
        wanted = f"a whole number from {_WHOLE[name]}"
    elif name in _NUMBERS:
        fits = number and 0 <= value < float("inf") and (name != "timeout_s" or value > 0)
        wanted = "a number above 0" if name == "timeout_s" else "a number from 0"
    elif name == "reply_format":
        fits, wanted = value in get_args(ReplyFormat), " or ".join(get_args(ReplyFormat))
    else:
        fits, wanted = isinstance(value, str) and bool(value.strip()), "a name"
    if not fits:
        raise InvalidRequest(f"{place} is {value!r}, expected {wanted}.")
