"""Reviews by way of the service's batch queue."""

from __future__ import annotations

import json

from tests.support.fake_judge import error, in_schema
from tests.support.reviews import arguments, read_lines


def test_a_batch_gives_the_reviews_that_single_calls_give(judge, files, output, review, tmp_path):
    code, out, _ = review(arguments(files, output, batch="submit", swap=True))
    assert code == 0
    assert "submitted 18 calls: batch batch_1" in out
    assert judge.bodies == []
    [uploaded] = judge.files.values()
    assert len({json.loads(line)["custom_id"] for line in uploaded.splitlines()}) == 18

    code, _, err = review(arguments(files, output, swap=True))
    assert code == 1
    assert "a batch of these reviews was submitted. Fetch it with --batch collect" in err

    judge.batch_status = "in_progress"
    code, _, err = review(arguments(files, output, batch="collect", swap=True))
    assert code == 1
    assert "batch_1 is in_progress, 0 of 18 done. Collect again later" in err
    judge.batch_status = "completed"
    assert review(arguments(files, output, batch="collect", swap=True))[0] == 0
    direct = tmp_path / "direct.json"
    assert review(arguments(files, direct, swap=True))[0] == 0
    fields = ("id", "question_id", "order", "tuple", "content", "judge_snapshot", "prompt_sha256")
    assert [[r[f] for f in fields] for r in read_lines(output)] == [[r[f] for f in fields] for r in read_lines(direct)]
    assert not output.with_name("review.json.batch.json").exists()


def test_what_an_expired_batch_did_not_come_to_is_asked_again(judge, files, output, review):
    assert review(arguments(files, output, batch="submit"))[0] == 0
    code, _, err = review(arguments(files, output, batch="submit"))
    assert code == 1
    assert "batch_1 was submitted already. Fetch its replies with --batch collect" in err
    judge.batch_status, judge.left_out = "expired", 4
    judge.answer = lambda body, number: error(500, "no") if "What is 1?" in str(body) else in_schema(body)
    code, _, err = review(arguments(files, output, batch="collect"))
    assert code == 1
    assert "no review from 5 of 9 calls (question 1, question 5, question 6, question 7, question 8)" in err
    assert len(read_lines(output)) == 4
    judge.batch_status, judge.left_out = "completed", 0
    judge.answer = lambda body, number: in_schema(body)
    assert "submitted 5 calls" in review(arguments(files, output, batch="submit"))[1]
    assert review(arguments(files, output, batch="collect"))[0] == 0
    assert [record["question_id"] for record in read_lines(output)] == list(range(9))


def test_a_submission_that_was_cut_off_finds_its_batch_again(judge, files, output, review):
    assert review(arguments(files, output, batch="submit"))[0] == 0
    memory = output.with_name("review.json.batch.json")
    state = json.loads(memory.read_text())
    state["parts"][0]["batch_id"] = None  # killed after the service took it and before its id was noted
    memory.write_text(json.dumps(state))
    assert review(arguments(files, output, batch="submit"))[0] == 0
    assert len(judge.batches) == 1
    assert review(arguments(files, output, batch="collect"))[0] == 0
    assert len(read_lines(output)) == 9


def test_a_batch_that_failed_says_why(judge, files, output, review):
    assert review(arguments(files, output, batch="submit"))[0] == 0
    judge.batch_status = "failed"
    judge.batches["batch_1"]["errors"] = {"object": "list", "data": [{"code": "x", "message": "Line 1 is bad."}]}
    code, _, err = review(arguments(files, output, batch="collect"))
    assert code == 1
    assert "the batch is failed: Line 1 is bad." in err


def test_a_batch_that_the_service_does_not_know_is_said(judge, files, output, review):
    assert review(arguments(files, output, batch="submit"))[0] == 0
    judge.batches.clear()
    code, _, err = review(arguments(files, output, batch="collect"))
    assert code == 1
    assert "the service has no such batch, or no batch queue at all" in err


def test_nothing_to_collect_says_so(judge, files, output, review):
    code, _, err = review(arguments(files, output, batch="collect"))
    assert code == 1
    assert "Nothing was submitted for this output" in err
