"""Defines the flags that the controller and the workers share, and the types that flag values are parsed with."""

from __future__ import annotations

import argparse

_DAY_S = 86_400.0


def add_limit_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds `--requests-per-minute` and `--drain-timeout`."""
    parser.add_argument(
        "--requests-per-minute",
        type=not_negative,
        default=0,
        metavar="N",
        help="Maximum number of requests per minute for each API key, or for each address if there are no keys "
        "(default: 0, no limit).",
    )
    parser.add_argument(
        "--drain-timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="Seconds that running requests have to finish after the first SIGTERM (default: 30).",
    )


def port(text: str) -> int:
    """Parses a port number from 0 to 65535; 0 lets the system choose a free port."""
    return _integer(text, 0, 65_535)


def positive(text: str) -> int:
    """Parses an integer from 1 to a million."""
    return _integer(text, 1, 1_000_000)


def not_negative(text: str) -> int:
    """Parses an integer from 0 to a million."""
    return _integer(text, 0, 1_000_000)


def seconds(text: str) -> float:
    """Parses a number of seconds from 0 to one day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _DAY_S:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 to {_DAY_S:.0f}, not {text!r}")
    return value


def positive_seconds(text: str) -> float:
    """Parses a number of seconds greater than 0, up to one day."""
    value = seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be greater than 0 seconds")
    return value


def _integer(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, not {text!r}")
    return int(text)
