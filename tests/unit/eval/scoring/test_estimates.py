"""Errors and intervals of figures, against values worked out by hand or known from tables."""

from __future__ import annotations

import pytest

from llava.eval.scoring.estimates import Part, ratio, table, total


def test_a_share_has_the_binomial_error_and_wilsons_interval():
    """Nine of twelve: sqrt(0.75 * 0.25 / 12) is 12.5 points; Wilson's interval is 46.77 to 91.11."""
    one = ratio("accuracy", [Part(1)] * 9 + [Part(0)] * 3)
    assert (one.value, one.gained, one.possible) == (75, 9, 12)
    assert one.standard_error == pytest.approx(12.5)
    assert (one.low, one.high) == (pytest.approx(46.77, abs=0.01), pytest.approx(91.11, abs=0.01))


def test_all_right_leaves_room_for_doubt_below_and_none_above():
    one = ratio("accuracy", [Part(1)] * 10)
    assert (one.value, one.standard_error, one.high) == (100, 0, 100)
    assert one.low == pytest.approx(72.25, abs=0.01)


def test_questions_that_stand_or_fall_together_count_as_one():
    """Four images with two questions each, both right or both wrong: the error is that of four, not of eight."""
    parts = [Part(score, group=image) for image, score in enumerate((1, 1, 1, 0)) for _ in range(2)]
    assert ratio("accuracy", parts).standard_error == pytest.approx(
        ratio("accuracy", [Part(1)] * 3 + [Part(0)]).standard_error
    )
    assert ratio("accuracy", parts).low < ratio("accuracy", [Part(p.gained) for p in parts]).low


def test_a_ratio_of_sums_counts_what_was_possible():
    one = ratio("precision", [Part(1, 1), Part(0, 1), Part(0, 0), Part(0, 0)])
    assert (one.value, one.possible) == (50, 2)
    assert one.standard_error == pytest.approx(100 * (0.5**2 + 0.5**2) ** 0.5 / 2)


def test_a_figure_of_nothing_has_no_value():
    one = ratio("precision", [Part(0, 0)])
    assert (one.value, one.as_json()["interval_95"]) == (None, None)
    assert total("sum", [one]).value is None
    assert table([one]).splitlines()[1].split() == ["precision", "-", "-", "-", "0"]


def test_a_sum_of_independent_figures_adds_their_squared_errors():
    one, two = (ratio(name, [Part(1)] * 2 + [Part(0)] * 2, scale=200) for name in "ab")
    both = total("both", [one, two])
    assert both.value == 200
    assert both.standard_error == pytest.approx(50 * 2**0.5)
