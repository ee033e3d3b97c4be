"""Flags that the controller and the workers share, and the values that flags of servers take."""

from __future__ import annotations

import argparse

_A_DAY_S = 86_400.0


def add_limit_arguments(parser: argparse._ActionsContainer) -> None:
    """`--requests-per-minute` and `--drain-timeout`."""
    parser.add_argument(
        "--requests-per-minute",
        type=not_negative,
        default=0,
        metavar="N",
        help="requests a minute for each key, or each address where there are no keys (default: 0, no limit)",
    )
    parser.add_argument(
        "--drain-timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="for running answers after the first SIGTERM (default: 30)",
    )


def port(text: str) -> int:
    """0, for any free one, to 65535."""
    return _whole(text, 0, 65_535)


def positive(text: str) -> int:
    return _whole(text, 1, 1_000_000)


def not_negative(text: str) -> int:
    return _whole(text, 0, 1_000_000)


def seconds(text: str) -> float:
    """0 to a day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _A_DAY_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to {_A_DAY_S:.0f}")
    return value


def some_seconds(text: str) -> float:
    """Above 0, to a day."""
    value = seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 seconds leave no time at all; give more")
    return value


def _whole(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
    return int(text)
