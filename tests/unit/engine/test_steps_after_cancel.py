"""The count of steps that are spent on requests nobody waits for."""

from __future__ import annotations

from llava.engine.steps_after_cancel import StepsAfterCancel


def test_steps_of_requests_that_are_waited_for_do_not_count():
    steps = StepsAfterCancel()
    steps.begins([1, 2])
    steps.begins([1, 2])
    assert (steps.total, steps.most) == (0, 0)


def test_the_step_under_way_counts_and_each_that_begins_later():
    steps = StepsAfterCancel()
    steps.begins([1, 2])
    steps.cancelled(1)
    assert (steps.total, steps.most) == (1, 1)
    steps.begins([1, 2])
    steps.begins([2])
    assert (steps.total, steps.most) == (2, 2)


def test_one_that_has_not_begun_counts_nothing_unless_it_begins():
    steps = StepsAfterCancel()
    steps.begins([1])
    steps.cancelled(2)
    assert steps.total == 0
    steps.begins([1, 2])
    assert steps.total == 1


def test_the_most_is_that_of_one_request():
    steps = StepsAfterCancel()
    for number in range(5):
        steps.begins([number])
        steps.cancelled(number)
    assert (steps.total, steps.most) == (5, 1)


def test_thousands_of_cancelled_requests_are_not_kept():
    steps = StepsAfterCancel()
    for number in range(5000):
        steps.cancelled(number)
    assert len(steps._cancelled) < 2000
