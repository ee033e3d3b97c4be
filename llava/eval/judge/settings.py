"""Reads the settings of the judge from flags, a configuration file and the environment.

A flag takes precedence over the configuration file, and the file over the environment. There is no default model: a
judge's scores are comparable only with those of the same judge, so the user must choose one.
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
    """How the model is called. The names are those of the flags and of the configuration file."""

    judge_model: str
    """The service's name of the model. A dated snapshot always means the same model."""
    base_url: str | None = None
    """Address of an OpenAI-compatible service; None for OPENAI_BASE_URL, or else OpenAI."""
    max_tokens: int = 1024
    """Maximum length of a reply in tokens."""
    temperature: float | None = None
    """Sampling temperature; None is not sent, as some models refuse a temperature."""
    reply_format: ReplyFormat = "auto"
    """`schema` requests JSON of a fixed form, `text` free text, and `auto` JSON if the service supports it."""
    tries: int = 3
    """Maximum number of calls per question; the first usable reply ends them."""
    max_retries: int = 8
    """Maximum number of retries of a call after HTTP 408, 409, 429 or 5xx or a lost connection."""
    timeout_s: float = 120.0
    """Time limit for a reply."""
    concurrency: int = 1
    """Maximum number of calls at the same time."""
    price_in: float | None = None
    """Price per million prompt tokens, in any currency."""
    price_out: float | None = None
    """Price per million reply tokens, in the same currency."""
    max_cost: float | None = None
    """Most that all replies in the output may cost, including those of earlier runs."""

    @property
    def has_prices(self) -> bool:
        return self.price_in is not None and self.price_out is not None


_HELP: Final[dict[str, tuple[str, str]]] = {
    "judge_model": ("NAME", f"Name of the model to call (default: ${MODEL_VARIABLE}; required if that is not set)."),
    "base_url": ("URL", "Address of an OpenAI-compatible service (default: $OPENAI_BASE_URL, or else OpenAI)."),
    "max_tokens": ("N", "Maximum length of a reply in tokens (default: 1024)."),
    "temperature": ("T", "Sampling temperature (default: not sent; the original sent 0.2)."),
    "reply_format": ("FORM", "Form of the replies: schema (JSON), text, or auto (JSON if supported; default: auto)."),
    "tries": ("N", "Maximum number of calls per question; the first usable reply ends them (default: 3)."),
    "max_retries": ("N", "Maximum number of retries after HTTP 429, 5xx or a lost connection (default: 8)."),
    "timeout_s": ("SECONDS", "Time limit for a reply, in seconds (default: 120)."),
    "concurrency": (
        "N",
        "Maximum number of calls at the same time. A process that is killed loses at most this many (default: 1).",
    ),
    "price_in": ("PRICE", "Price per million prompt tokens, in any currency (default: unknown)."),
    "price_out": ("PRICE", "Price per million reply tokens, in the same currency (default: unknown)."),
    "max_cost": ("COST", "Stop before the replies in the output could cost more than this (default: no limit)."),
}
_WHOLE: Final = {"max_tokens": 1, "tries": 1, "max_retries": 0, "concurrency": 1}
"""The fields that are whole numbers, and the least value of each."""
_NUMBERS: Final = {"temperature", "timeout_s", "price_in", "price_out", "max_cost"}


def add_judge_arguments(parser: argparse.ArgumentParser, *, leave_out: tuple[str, ...] = ()) -> None:
    """Adds the flags of `JudgeSettings` and `--config`."""
    group = parser.add_argument_group("model to call")
    for name, (metavar, text) in _HELP.items():
        if name not in leave_out:
            flag = "--" + name.removesuffix("_s").replace("_", "-")
            kind = int if name in _WHOLE else float if name in _NUMBERS else str
            names = (flag, "--model") if name == "judge_model" else (flag,)
            group.add_argument(*names, dest=name, type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--config",
        metavar="FILE",
        help=f'Configuration file (JSON), such as {{"judge_model": "..."}} (default: ${CONFIG_VARIABLE}).',
    )


def judge_settings(args: argparse.Namespace) -> JudgeSettings:
    """Reads the flags of `add_judge_arguments`, completed by the configuration file and the environment.

    Raises:
        InvalidRequest: the model is missing, or a value is invalid. The message names the flag or the file.
        DataError: the configuration file cannot be read, or has an unknown field.
    """
    values: dict[str, Any] = {}
    if os.environ.get(MODEL_VARIABLE):
        values["judge_model"] = os.environ[MODEL_VARIABLE]
    config = args.config or os.environ.get(CONFIG_VARIABLE)
    if config:
        values |= _read_config(config)
    given = {name: value for name, value in vars(args).items() if name in _HELP and value is not None}
    values |= given
    for name, value in values.items():
        place = f"--{name.removesuffix('_s').replace('_', '-')}" if name in given else f"{config}: {name!r}"
        _check(name, value, place)
    if "judge_model" not in values:
        raise InvalidRequest(
            "--judge-model is missing. Name the model, best a dated snapshot, with the flag, in a --config file or in "
            f"${MODEL_VARIABLE}. There is no default because figures of different judges are not comparable."
        )
    settings = JudgeSettings(**values)
    if settings.max_cost is not None and not settings.has_prices:
        raise InvalidRequest("--max-cost needs --price-in and --price-out, the prices per million tokens.")
    return settings


def _read_config(path: str) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: contains a JSON {json_type(value)}, expected an object.")
    known = [field.name for field in fields(JudgeSettings)]
    for name in value:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"The fields are: {', '.join(known)}."
            raise DataError(f"{path}: {name!r} is not a known field. {hint}")
    return value


def _check(name: str, value: Any, place: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _WHOLE:
        fits = isinstance(value, int) and number and value >= _WHOLE[name]
        wanted = f"a whole number, {_WHOLE[name]} or more"
    elif name in _NUMBERS:
        fits = number and 0 <= value < float("inf") and (name != "timeout_s" or value > 0)
        wanted = "a number above 0" if name == "timeout_s" else "a number, 0 or more"
    elif name == "reply_format":
        fits, wanted = value in get_args(ReplyFormat), " or ".join(get_args(ReplyFormat))
    else:
        fits, wanted = isinstance(value, str) and bool(value.strip()), "a name"
    if not fits:
        raise InvalidRequest(f"{place} is {value!r}, expected {wanted}.")
