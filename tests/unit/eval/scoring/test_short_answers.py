"""Short answers brought to one form, and soft accuracy. Expected values worked out by hand from the published rules."""

from __future__ import annotations

import pytest

from llava.eval.m4c_evaluator import (
    EvalAIAnswerProcessor,
    STVQAAccuracyEvaluator,
    STVQAANLSEvaluator,
    TextVQAAccuracyEvaluator,
)
from llava.eval.scoring.short_answers import CONTRACTIONS, server_form, soft_accuracy, vqa_accuracy, vqa_form


@pytest.mark.parametrize(
    ("answer", "server", "vqa"),
    [
        ("Yes.", "yes", "yes"),
        ("The cat", "cat", "cat"),
        ("a dog and an apple", "dog and apple", "dog and apple"),
        ("Two", "2", "2"),
        ("none", "0", "0"),
        ("eleven", "eleven", "eleven"),
        ("3.5", "3.5", "3.5"),
        ("e.g.", "eg", "eg"),
        (".5", ".5", ".5"),
        ("3. floor", "3 floor", "3 floor"),
        ("dont", "don't", "don't"),
        ("wouldntve", "wouldntve", "wouldntve"),
        ("couldn'tve", "couldn't've", "couldn't've"),
        ("somebody'd", "somebodyd", "somebodyd"),
        ("red-white", "red white", "red white"),
        ("red - white", "red white", "red white"),
        ("left/right", "left right", "left right"),
        ("10,000", "10000", "10000"),
        ("red,white", "redwhite", "red white"),
        ("red, white", "red white", "red white"),
        ("what?", "what", "what"),
        ("really?yes", "reallyyes", "really yes"),
        ("10,000 blue-green", "10000 blue green", "10000 bluegreen"),
        ("dog's", "dog 's", "dog's"),
        ("line\none\ttwo", "line 1 2", "line 1 2"),
        ("", "", ""),
        ("the", "", ""),
    ],
)
def test_an_answer_takes_the_form_of_each_rule(answer, server, vqa):
    assert (server_form(answer), vqa_form(answer)) == (server, vqa)


def test_no_more_than_thirty_two_periods_go_as_in_the_published_code():
    assert vqa_form("a." * 33 + "b") == "a" * 32 + "a.b"


def test_contractions_are_repaired_by_the_one_apostrophe_they_lack():
    pairs = {"aint": "ain't", "hed've": "he'd've", "he'dve": "he'd've", "'ows'at": "'ow's'at", "y'allll": "y'all'll"}
    assert {broken: CONTRACTIONS.get(broken) for broken in pairs} == pairs
    assert len(CONTRACTIONS) == 114


@pytest.mark.parametrize(("count", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_people_who_say_the_same_make_an_answer_right(count, accuracy):
    assert soft_accuracy("red", ["red"] * count + ["blue"] * (10 - count)) == pytest.approx(accuracy)


def test_where_all_people_agree_vqa_compares_the_words_as_they_stand():
    assert vqa_accuracy("Red", ["red"] * 10) == 0
    assert vqa_accuracy("Red", ["red"] * 9 + ["blue"]) == 1
    assert vqa_accuracy(" red\n", ["red"] * 10) == 1


def test_the_evaluators_of_later_releases_are_there_under_their_names():
    people = ["red"] * 3 + ["blue"] * 7
    assert EvalAIAnswerProcessor()("The Red.") == "red"
    asked = [{"pred_answer": "red", "gt_answers": people}, {"pred_answer": "green", "gt_answers": people}]
    assert TextVQAAccuracyEvaluator().eval_pred_list(asked) == pytest.approx(0.45)
    assert STVQAAccuracyEvaluator().eval_pred_list(asked) == 0.5
    spelled = [{"pred_answer": "Stopp", "gt_answers": ["stop", "go"]}, {"pred_answer": "sp", "gt_answers": ["stoop"]}]
    assert STVQAANLSEvaluator().eval_pred_list(spelled) == pytest.approx((0.8 + 0) / 2)
