"""Flag values are parsed with their bounds, and a wrong one says what is expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from llava.serve.service import flags


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (flags.port, "0", 0),
        (flags.port, "65535", 65_535),
        (flags.positive, "1", 1),
        (flags.not_negative, "0", 0),
        (flags.seconds, "0", 0.0),
        (flags.positive_seconds, "0.5", 0.5),
    ],
)
def test_values_within_their_bounds_are_taken(parse: Callable[[str], float], text: str, value: float):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (flags.port, "65536", "must be a whole number from 0 to 65535, not '65536'"),
        (flags.port, "http", "must be a whole number from 0 to 65535, not 'http'"),
        (flags.positive, "0", "must be a whole number from 1 to 1000000, not '0'"),
        (flags.not_negative, "-1", "must be a whole number from 0 to 1000000, not '-1'"),
        (flags.seconds, "nan", "must be a number of seconds from 0 to 86400, not 'nan'"),
        (flags.seconds, "soon", "must be a number of seconds from 0 to 86400, not 'soon'"),
        (flags.positive_seconds, "0", "must be greater than 0 seconds"),
    ],
)
def test_other_values_are_refused_in_one_sentence(parse: Callable[[str], float], text: str, message: str):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse(text)
    assert str(error.value) == message
