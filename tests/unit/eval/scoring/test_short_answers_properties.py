"""What holds of short answers whatever they are."""

from __future__ import annotations

import pytest

hypothesis = pytest.importorskip("hypothesis")  # not there for Python 3.10
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from llava.eval.scoring.short_answers import server_form, soft_accuracy, vqa_form  # noqa: E402


@given(st.text(alphabet=st.sampled_from("aA tT'he.,?;-/10\n\t\u00e9"), max_size=40))
def test_a_form_has_single_spaces_no_capitals_and_no_articles(answer):
    for form in (server_form(answer), vqa_form(answer)):
        assert form == " ".join(form.split()) == form.lower()
        assert not {"a", "an", "the"} & set(form.split())


@given(st.lists(st.sampled_from("abc"), min_size=10, max_size=10), st.sampled_from("abcd"))
def test_soft_accuracy_is_the_mean_over_leaving_out_each_of_the_people_once(people, answer):
    left_out = [people[:one] + people[one + 1 :] for one in range(10)]
    expected = sum(min(1.0, rest.count(answer) / 3) for rest in left_out) / 10
    assert soft_accuracy(answer, people) == pytest.approx(expected)
