"""Two scores out of a judge's reply, or none: nothing is guessed."""

from __future__ import annotations

import pytest

from llava.eval.reviews.scores import NoScores, parse_scores, starts_with_scores


@pytest.mark.parametrize(
    ("reply", "scores", "parsed"),
    [
        ("8 7\nBoth are good.", (8, 7), "line 1"),
        ("8, 7\nThe original took these for three parts.", (8, 7), "line 1"),
        ("8.5,7", (8.5, 7), "line 1"),
        ("\n\n  9\t10  \n", (9, 10), "line 3"),
        ("**8 7**", (8, 7), "line 1"),
        ("(8, 7)\na Python tuple, as the original's rule for maths asks", (8, 7), "line 1"),
        ("First I solve it: 3 + 4.\nSo it is 7.\n\n6 9\nThe second is right.", (6, 9), "line 4"),
        ("6 9\nIn short:\n6 9", (6, 9), "line 1"),
        ("6 9\nLater: the sizes are\n3 4", (6, 9), "line 1"),
        ('{"score_1": 8, "score_2": 7.5, "explanation": "good"}', (8, 7.5), "schema"),
        ('```json\n{"score_1": 8, "score_2": 7, "explanation": "good"}\n```', (8, 7), "schema"),
    ],
)
def test_a_pair_of_scores_is_read(reply, scores, parsed):
    found = parse_scores(reply, 1, 10)
    assert ((found.first, found.second), found.parsed) == (scores, parsed)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "the reply is empty"),
        ("Assistant 1 gets an 8 and Assistant 2 a 7.", "no line holds two numbers"),
        ("8/10 7/10", "no line holds two numbers"),
        ("8 7 9", "no line holds two numbers"),
        ("8\n7", "no line holds two numbers"),
        ("-1 -1", "no line holds two numbers"),
        ("So:\n8 7\nor rather\n7 8", "several lines hold two numbers"),
        ("11 7", "the score 11 is not from 1 to 10"),
        ("0 7", "the score 0 is not from 1 to 10"),
        ("８ ７", "no line holds two numbers"),
        ('{"score_1": 8}', "score_2: Field required"),
        ('{"score_1": NaN, "score_2": 7}', "the object|score_1"),
        ('{"score_1": 8, "score_2": 99, "explanation": ""}', "the score 99 is not from 1 to 10"),
        ('{"score_1": 8, "sco', "the object: Invalid JSON"),
    ],
)
def test_a_reply_without_exactly_one_pair_has_no_scores(reply, why):
    with pytest.raises(NoScores, match=why):
        parse_scores(reply, 1, 10)


def test_a_review_from_a_schema_reads_like_the_originals():
    found = parse_scores('{"score_1": 8.0, "score_2": 7.5, "explanation": "The first is exact."}', 1, 10)
    assert found.content == "8 7.5\nThe first is exact."
    assert starts_with_scores(found.content)
    assert not starts_with_scores("Assistant 1 is better.\n8 7")


def test_another_scale_is_kept_to():
    assert parse_scores("85 90", 0, 100).second == 90
