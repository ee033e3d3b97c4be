"""A judge that fails, refuses, is slow or is not there: what is repeated, given up and said."""

from __future__ import annotations

import time

import pytest
from fastapi import Response

from llava.serve.service.server import free_port
from tests.support.fake_judge import answering, at_once, error, in_schema
from tests.support.reviews import arguments, read_lines


def test_calls_that_fail_for_a_moment_are_repeated(judge, files, output, review):
    answering(judge, at_once(429), at_once(500), at_once(503))
    assert review(arguments(files, output))[0] == 0
    assert len(judge.bodies) == 12
    assert len(read_lines(output)) == 9


def test_retry_after_is_waited_for(judge, files, output, review):
    answering(judge, error(429, headers={"retry-after": "1"}))
    begin = time.monotonic()
    assert review(arguments(files, output))[0] == 0
    assert time.monotonic() - begin >= 1, "a lower bound does not depend on the machine"


def test_a_service_that_asks_for_more_patience_than_makes_sense_ends_the_run_cleanly(judge, files, output, review):
    answering(judge, in_schema, error(429, "Rate limit reached.", headers={"retry-after": "3600"}))
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "accepts no more calls for 3600 s (HTTP 429: Rate limit reached.)" in err
    assert "1 of 9 are finished" in err
    assert review(arguments(files, output))[0] == 0
    assert len(judge.bodies) == 10


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (error(401, "Incorrect API key provided."), "HTTP 401: Incorrect API key provided.). Set OPENAI_API_KEY"),
        (error(403, "No access."), "HTTP 403: No access."),
        (error(404, "No such model."), "HTTP 404: No such model.). Check --judge-model judge-2026 and --base-url."),
    ],
)
def test_a_refusal_of_everything_stops_at_the_first_call(answer, said, judge, files, output, review):
    judge.answer = lambda body, number: answer
    code, out, err = review(arguments(files, output))
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err
    assert len(judge.bodies) == 1


def test_a_used_up_account_is_not_asked_again_and_again(judge, files, output, review):
    judge.answer = lambda body, number: error(
        429, "You exceeded your quota.", code="insufficient_quota", headers={"x-should-retry": "false"}
    )
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "nothing left to spend" in err
    assert len(judge.bodies) == 1


def test_one_question_that_always_fails_does_not_hold_up_the_others(judge, files, output, review):
    judge.answer = lambda body, number: (
        error(400, "Too long.") if "What is 4?" in body["messages"][1]["content"] else in_schema(body)
    )
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "no reply to 1 of 9 (question 4). First error: HTTP 400: Too long." in err
    assert len(read_lines(output)) == 8
    judge.answer = lambda body, number: in_schema(body)
    assert review(arguments(files, output))[0] == 0
    assert [record["question_id"] for record in read_lines(output)] == list(range(9))


def test_a_service_that_is_down_is_given_up_after_three_calls(judge, files, output, review):
    judge.answer = lambda body, number: at_once(500, "Out of order.")
    code, _, err = review(arguments(files, output, max_retries=2))
    assert code == 1
    assert "3 calls in a row got no reply. Last error: HTTP 500: Out of order." in err
    assert len(judge.bodies) == 9


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda: Response("<html>Please log in</html>", media_type="text/html"),
            "does not follow the protocol: '<html>",
        ),
        (lambda: Response('{"choi', media_type="application/json"), "does not follow the protocol"),
        (lambda: Response('{"object": "chat.completion"}', media_type="application/json"), "has no choices"),
        (lambda: Response('{"choices": [{"index": 0}]}', media_type="application/json"), "has no choices"),
    ],
)
def test_a_reply_that_is_no_completion_is_named(answer, said, judge, files, output, review):
    judge.answer = lambda body, number: answer()
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "3 calls in a row got no reply" in err
    assert said in err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (lambda: f"http://127.0.0.1:{free_port()}/v1", "no connection to the service"),
        (lambda: "localhost:8000", "must begin with http:// or https://"),
    ],
)
def test_an_address_where_nobody_answers_is_given_up_at_once(address, said, judge, files, output, review):
    code, _, err = review(arguments(files, output, base_url=address(), max_retries=1))
    assert code == 1
    assert said in err
    assert "in a row" not in err


def test_a_slow_reply_is_given_up_after_the_timeout(judge, files, output, review):
    judge.pace_s = 30
    code, _, err = review(arguments(files, output, timeout="0.2", max_retries=0))
    assert code == 1
    assert "no reply within 0.2 s (--timeout)" in err


def test_no_more_than_the_chosen_number_of_calls_run_at_once(judge, files, output, review):
    judge.pace_s = 0.05
    assert review(arguments(files, output, concurrency=3))[0] == 0
    assert judge.most_at_once == 3
    assert [record["question_id"] for record in read_lines(output)] == list(range(9))
