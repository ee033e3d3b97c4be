"""What is made of the judge's replies: scores in either form, replies without any, figures left out."""

from __future__ import annotations

import pytest

from tests.support.fake_judge import answering, error, in_lines, in_schema
from tests.support.reviews import arguments, read_lines


@pytest.mark.parametrize("form", ["schema", "text"])
def test_scores_come_from_the_schema_or_from_the_line(form, judge, files, output, review):
    assert review(arguments(files, output, reply_format=form))[0] == 0
    assert ("response_format" in judge.bodies[0]) == (form == "schema")
    assert {record["parsed"] for record in read_lines(output)} == {"schema" if form == "schema" else "line 1"}


def test_a_service_that_ignores_the_schema_is_read_by_its_line(judge, files, output, review):
    judge.answer = lambda body, number: in_lines(body)
    assert review(arguments(files, output))[0] == 0
    assert {record["parsed"] for record in read_lines(output)} == {"line 1"}


def test_a_service_without_schemas_or_with_the_older_name_of_the_limit_is_asked_without(judge, files, output, review):
    def answer(body, number):
        if "response_format" in body:
            return error(400, "Not served here.", param="response_format")
        if "max_completion_tokens" in body:
            return error(400, "Unknown field max_completion_tokens")
        return in_lines(body)

    judge.answer = answer
    assert review(arguments(files, output))[0] == 0
    assert len(judge.bodies) == 9 + 2, "it is found out once"
    assert judge.bodies[-1]["max_tokens"] == 1024


def test_a_reply_without_scores_is_asked_for_again(judge, files, output, review):
    answering(judge, "Both are fine.", "9 9 9\nwell", in_schema)
    assert review(arguments(files, output))[0] == 0
    assert [record["tries"] for record in read_lines(output)] == [3] + [1] * 8
    assert len(judge.bodies) == 11


def test_a_review_that_never_has_scores_is_flagged_and_asked_again_on_demand(judge, files, output, review):
    answering(judge, *["Both are fine."] * 3)
    code, out, err = review(arguments(files, output))
    assert code == 0
    assert "8 reviews by" in out
    assert "without scores, so in no figure: 1 (questions 0)" in err
    first = read_lines(output)[0]
    assert (first["tuple"], first["unparsable"]) == ([-1, -1], "no line holds two numbers and nothing else")

    assert review(arguments(files, output))[0] == 0
    assert len(judge.bodies) == 11, "nothing was asked again"
    assert review(arguments(files, output, redo_unparsable=True))[0] == 0
    assert len(judge.bodies) == 12
    records = read_lines(output)
    assert [record["question_id"] for record in records] == list(range(9))
    assert records[0]["unparsable"] is None


def test_a_reply_that_was_cut_off_says_what_to_do(judge, files, output, review):
    answering(judge, *['{"score_1": 8, "sco'] * 3)
    judge.finish_reason = "length"
    assert review(arguments(files, output))[0] == 0
    assert "--max-tokens" in read_lines(output)[0]["unparsable"]


def test_a_service_that_does_not_say_what_it_used_is_estimated(judge, files, output, review):
    judge.with_usage = False
    assert review(arguments(files, output))[0] == 0
    size = sum(len(message["content"]) for message in judge.bodies[0]["messages"])
    assert read_lines(output)[0]["usage"]["prompt_tokens"] == -(-size // 4)
