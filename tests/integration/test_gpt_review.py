"""GPT review against a judge over real HTTP, asked by the real `openai` client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fastapi import Response

from llava.command_line import run
from llava.eval import eval_gpt_review, eval_gpt_review_bench, eval_gpt_review_visual
from tests.conftest import REPOSITORY
from tests.support.fake_judge import SNAPSHOT, FakeJudge, as_asked, at_once, error, in_lines, in_schema, judging
from tests.support.reviews import arguments, change, make_question_set, read_lines
from tests.support.science_qa import write_lines

MODEL = "judge-2026"


@pytest.fixture
def judge(monkeypatch):
    """A judge that the environment leads to."""
    judge = FakeJudge()
    with judging(judge) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("LLAVA_JUDGE_MODEL", MODEL)
        yield judge


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return make_question_set(tmp_path / "set")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "made" / "review.json"


@pytest.fixture
def review(capsys):
    """Runs a command in this process; gives (exit code, standard output, standard error)."""

    def run_it(argv: list[str], command=eval_gpt_review_visual) -> tuple[int, str, str]:
        code = run(command.add_arguments, command.main, argv=argv)
        return code, *capsys.readouterr()

    return run_it


def answering(judge: FakeJudge, *answers) -> None:
    """The first calls get these, one each; the rest what is asked for."""
    waiting = list(answers)

    def answer(body, number):
        if waiting:
            first = waiting.pop(0)
            return first if isinstance(first, str | Response) else first(body)
        return as_asked(body)

    judge.answer = answer


# What is asked and what is written


def test_a_prompt_is_laid_out_as_the_originals(judge, files, output, review):
    assert review(arguments(files, output))[0] == 0
    rule = json.loads((REPOSITORY / "llava" / "eval" / "table" / "rule.json").read_text())["detail"]["prompt"]
    system, user = judge.bodies[1]["messages"]
    assert system["role"] == "system"
    assert user["content"] == (
        "[Context]\nDog 0.\nA dog.\n\ndog: [0.25, 0.5, 0.75, 0.9]\ndog: [0.25, 0.5, 0.75, 0.9]\n\n"
        "[Question]\nWhat is 1?\n\n"
        "[Assistant 1]\nIt is 1.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\naa\n\n[End of Assistant 2]\n\n"
        f"[System]\n{rule}\n\n"
    )


def test_a_review_has_the_originals_fields_and_says_who_judged_what_by_which_rule(judge, files, output, review):
    code, out, _ = review(arguments(files, output, temperature="0.2"))
    assert code == 0
    assert f"9 reviews by {MODEL}" in out
    second = read_lines(output)[1]
    assert {name: second[name] for name in ("id", "question_id", "answer1_id", "answer2_id", "category", "tuple")} == {
        "id": 2,
        "question_id": 1,
        "answer1_id": 1,  # the reference answers have no answer_id
        "answer2_id": "a1",
        "category": "detail",
        "tuple": [1.5, 3.0],
    }
    assert second["content"] == "1.5 3\nAssistant 1 is longer."
    assert (second["judge_model"], second["judge_snapshot"], second["system_fingerprint"]) == (MODEL, SNAPSHOT, "fp_1")
    assert (second["answer2_model"], second["image"], second["parsed"]) == (
        "LLaVA-13B-v0",
        "000000000000.jpg",
        "schema",
    )
    assert second["client"].startswith("openai ")
    assert len(second["rule_sha256"]) == len(second["prompt_sha256"]) == 64
    assert second["usage"]["completion_tokens"] == 20
    body = judge.bodies[0]
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == (MODEL, 0.2, 1024)


def test_answers_are_joined_by_id_whatever_their_order_and_spelling(judge, files, output, review, tmp_path):
    assert review(arguments(files, output))[0] == 0
    expected = [(record["question_id"], record["tuple"]) for record in read_lines(output)]
    shuffled = [record | {"question_id": str(record["question_id"])} for record in reversed(read_lines(files["ours"]))]
    write_lines(files["ours"], shuffled)
    for line in range(3):
        name = f"COCO_val2014_{line:012d}.jpg"
        change(files["context"], line, image=name)
    other = tmp_path / "other.jsonl"
    assert review(arguments(files, other))[0] == 0
    assert [(record["question_id"], record["tuple"]) for record in read_lines(other)] == expected


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            lambda f: change(f["questions"], 4, category="poetry"),
            "line 5 (question 4): category 'poetry' has no rule",
        ),
        (lambda f: change(f["questions"], 4, image="x.jpg"), "line 5 (question 4): its picture x.jpg is not in"),
        (lambda f: change(f["ours"], 4, question_id=77), "ours.jsonl: no answer to 1 of 9 questions (4)."),
        (lambda f: change(f["ours"], 4, text=None), "line 5 (question 4): 'text' is a JSON null, expected a string"),
        (lambda f: change(f["context"], 1, instances=None), "line 2 (000000000001.jpg): 'instances' is missing"),
        (lambda f: change(f["context"], 1, captions=3), "line 2 (000000000001.jpg): 'captions' is missing, or neither"),
        (lambda f: change(f["questions"], 4, question_id=3), "questions.jsonl: asks 3 more than once"),
        (lambda f: f["reference"].write_text('{"question_id": 1, "te'), "line 1: not JSON"),
    ],
)
def test_files_that_do_not_fit_are_named_before_anything_is_asked(what, said, judge, files, output, review):
    what(files)
    code, out, err = review(arguments(files, output))
    assert (code, out) == (1, "")
    assert said in err
    assert judge.bodies == []


def test_questions_without_answers_can_be_left_out_and_are_counted(judge, files, output, review):
    change(files["ours"], 4, question_id=77)
    code, _, err = review(arguments(files, output, skip_missing=True))
    assert code == 0
    assert "no answer to 1 of 9 questions (4); left out" in err
    assert "ids that no question has: 1 (77)" in err
    assert [record["question_id"] for record in read_lines(output)] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_text_only_questions_have_no_context_and_fall_back_to_the_default_rule(judge, files, output, review):
    for number in range(9):
        change(files["questions"], number, category="writing")
    argv = [word for word in arguments(files, output) if word not in ("--context", str(files["context"]))]
    assert review(argv, eval_gpt_review)[0] == 0
    assert judge.bodies[0]["messages"][1]["content"].startswith("[Question]\nWhat is 0?\n\n[Assistant 1]\n")
    assert {record["category"] for record in read_lines(output)} == {"writing"}


def test_llava_bench_has_one_caption_and_rules_of_its_own(judge, files, output, review):
    for number in range(3):
        change(files["context"], number, caption=f"A dog with the number {number}.")
    assert review(arguments(files, output), eval_gpt_review_bench)[0] == 0
    assert judge.bodies[0]["messages"][1]["content"].startswith("[Context]\nA dog with the number 0.\n\n[Question]")
    assert read_lines(output)[0]["category"] == "llava_bench_conv"


def test_both_orders_are_asked_and_scores_stay_in_the_order_of_the_files(judge, files, output, review):
    assert review(arguments(files, output, swap=True))[0] == 0
    records = read_lines(output)
    assert [record["order"] for record in records] == ["forward"] * 9 + ["swapped"] * 9
    assert [record["id"] for record in records] == list(range(1, 19))
    prompt = judge.bodies[9]["messages"][1]["content"]
    assert "[Assistant 1]\na\n\n" in prompt
    assert "[Assistant 2]\nIt is 0.\n\n" in prompt
    # The judge gives half a point to whichever answer comes first.
    assert (records[0]["tuple"], records[9]["tuple"]) == ([1.5, 2.0], [1.0, 2.5])
    assert records[9]["content"].startswith("2.5 1\n")


# Replies


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


# Failures of the service


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
    assert "takes no more calls for 3600 s (HTTP 429: Rate limit reached.)" in err
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
    assert "no reply to 1 of 9 (question 4); the first: HTTP 400: Too long." in err
    assert len(read_lines(output)) == 8
    judge.answer = lambda body, number: in_schema(body)
    assert review(arguments(files, output))[0] == 0
    assert [record["question_id"] for record in read_lines(output)] == list(range(9))


def test_a_service_that_is_down_is_given_up_after_three_calls(judge, files, output, review):
    judge.answer = lambda body, number: at_once(500, "Out of order.")
    code, _, err = review(arguments(files, output, max_retries=2))
    assert code == 1
    assert "3 calls in a row got no reply; the last: HTTP 500: Out of order." in err
    assert len(judge.bodies) == 9


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


# Resuming


def start(*argv: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "llava.eval.eval_gpt_review_visual", *argv],
        cwd=REPOSITORY,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("concurrency", "sent"), [(1, signal.SIGKILL), (8, signal.SIGTERM), (8, signal.SIGKILL)])
def test_a_run_killed_after_40_of_90_reviews_goes_on_and_pays_for_next_to_nothing_twice(
    concurrency, sent, judge, tmp_path, output, review
):
    files = make_question_set(tmp_path / "qa90", pictures=30)
    judge.hold_at = 41
    process = start(*arguments(files, output, concurrency=concurrency))
    assert judge.reached.wait(120), process.communicate()
    while len(output.read_bytes().splitlines()) < 40:
        time.sleep(0.02)
    process.send_signal(sent)
    if sent == signal.SIGTERM:
        while "waiting for the calls under way" not in process.stderr.readline():
            assert process.poll() is None
    judge.hold_at = None
    judge.release.set()
    _, err = process.communicate(timeout=60)
    if sent == signal.SIGTERM:
        assert process.returncode == 130, err
        assert "of 90 are finished" in err
    assert review(arguments(files, output, concurrency=concurrency))[0] == 0
    twice = sum(count - 1 for count in judge.times_asked().values())
    assert twice <= {signal.SIGTERM: 0, signal.SIGKILL: concurrency}[sent]
    records = read_lines(output)
    assert [record["question_id"] for record in records] == list(range(90))
    untouched = tmp_path / "untouched.json"
    assert review(arguments(files, untouched))[0] == 0
    passing = {"time"}
    assert [{k: v for k, v in record.items() if k not in passing} for record in records] == [
        {k: v for k, v in record.items() if k not in passing} for record in read_lines(untouched)
    ]


def test_a_record_that_was_cut_off_is_made_again(judge, files, output, review):
    assert review(arguments(files, output))[0] == 0
    whole = output.read_text()
    output.write_text(whole[:-40])
    code, _, err = review(arguments(files, output))
    assert code == 0
    assert "the last record was cut off; it is removed" in err
    assert len(judge.bodies) == 10
    assert [record["tuple"] for record in read_lines(output)] == [json.loads(x)["tuple"] for x in whole.splitlines()]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            lambda f: change(f["ours"], 4, text="Changed."),
            "1 of 9 reviews are of other answers or by another rule (questions 4)",
        ),
        (lambda f: os.environ.update(LLAVA_JUDGE_MODEL="other"), "9 of 9 reviews are by another judge, judge-2026"),
    ],
)
def test_reviews_of_something_else_are_not_mixed_with_these(what, said, judge, files, output, review):
    assert review(arguments(files, output))[0] == 0
    what(files)
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert said in err
    assert len(judge.bodies) == 9
    assert review(arguments(files, output, replace=True))[0] == 0
    assert len(read_lines(output)) == 9


def test_reviews_of_another_program_are_left_alone(judge, files, output, review):
    output.parent.mkdir()
    content = write_lines(output, [{"question_id": 0, "tuple": [8, 9], "category": "conv"}]).read_text()
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "lines made by another program: 1 of 1" in err
    assert output.read_text() == content


def test_two_runs_never_write_the_same_file(judge, files, output, review):
    judge.hold_at = 1
    process = start(*arguments(files, output))
    assert judge.reached.wait(120)
    code, _, err = review(arguments(files, output))
    judge.release.set()
    assert code == 1
    assert "another run is writing this file" in err
    assert process.wait(60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_loses_nothing_that_was_finished(judge, files, output, review, monkeypatch):
    from llava.jsonl_log import JsonlLog

    real = JsonlLog.append
    written = []

    def append(log, record):
        written.append(record)
        if len(written) == 4:  # as on a disk that has just become full
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, log._file.fileno())
        real(log, record)

    with monkeypatch.context() as patched:
        patched.setattr(JsonlLog, "append", append)
        code, _, err = review(arguments(files, output))
    assert code == 1
    assert f"{output}: cannot be written: No space left on device" in err
    assert len(read_lines(output)) == 3
    assert review(arguments(files, output))[0] == 0
    assert len(judge.bodies) == 4 + 6


# Cost


def test_a_dry_run_counts_calls_tokens_and_cost_and_asks_nothing(judge, files, output, review):
    code, out, _ = review(arguments(files, output, dry_run=True, swap=True, price_in=2.5, price_out=10))
    assert code == 0
    assert judge.bodies == []
    assert not output.exists()
    size = 2 * sum(len(body) for body in prompts_of(files, output, judge, review))
    assert "calls:   18 to make, 0 made already" in out
    assert f"prompts: {size:,} characters, about {round(size / 4):,} tokens" in out
    assert "replies: about 2,340 tokens (130 each), at most 18,432" in out
    cost = (round(size / 4) * 2.5 + 2340 * 10) / 1e6
    assert f"cost:    about {cost:.2f}, at most about" in out


def prompts_of(files, output, judge, review) -> list[str]:
    assert review(arguments(files, output))[0] == 0
    return ["".join(message["content"] for message in body["messages"]) for body in judge.bodies]


def test_a_dry_run_takes_its_estimate_from_the_replies_that_are_there(judge, files, output, review):
    assert review(arguments(files, output))[0] == 0
    code, out, _ = review(arguments(files, output, dry_run=True, swap=True))
    assert code == 0
    assert "calls:   9 to make, 9 made already" in out
    assert "as in the 9 replies that are there" in out
    assert "replies: about 180 tokens (20 each)" in out


def test_the_cost_stays_below_its_limit_and_a_higher_limit_goes_on(judge, files, output, review):
    prices = {"price_in": 1000, "price_out": 1000, "max_tokens": 100}
    code, _, err = review(arguments(files, output, max_cost=2, concurrency=2, **prices))
    assert code == 1
    assert "could bring the cost above --max-cost 2" in err
    done = read_lines(output)
    spent = sum(sum(record["usage"].values()) for record in done) / 1000
    assert 0 < len(done) < 9
    assert spent <= 2
    assert review(arguments(files, output, max_cost=100, **prices))[0] == 0
    assert len(judge.bodies) == 9


# The batch queue


def test_a_batch_gives_the_reviews_that_single_calls_give(judge, files, output, review, tmp_path):
    code, out, _ = review(arguments(files, output, batch="submit", swap=True))
    assert code == 0
    assert "submitted 18 calls: batch batch_1" in out
    assert judge.bodies == []
    [uploaded] = judge.files.values()
    assert len({json.loads(line)["custom_id"] for line in uploaded.splitlines()}) == 18

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


def test_nothing_to_collect_says_so(judge, files, output, review):
    code, _, err = review(arguments(files, output, batch="collect"))
    assert code == 1
    assert "Nothing was submitted for this output" in err


# Settings


def test_a_configuration_file_names_the_judge_and_flags_win(judge, files, output, review, tmp_path, monkeypatch):
    monkeypatch.delenv("LLAVA_JUDGE_MODEL")
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "--judge-model is missing" in err
    config = tmp_path / "judge.json"
    config.write_text(json.dumps({"judge_model": "from-file", "max_tokens": 50}))
    monkeypatch.setenv("LLAVA_JUDGE_CONFIG", str(config))
    assert review(arguments(files, output, max_tokens=60))[0] == 0
    assert (judge.bodies[0]["model"], judge.bodies[0]["max_completion_tokens"]) == ("from-file", 60)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"judge_modle": "x"}', "'judge_modle' means nothing. Did you mean 'judge_model'?"),
        ('{"concurrency": 0}', "'concurrency' is 0, expected a whole number from 1"),
        ('{"reply_format": "xml"}', "'reply_format' is 'xml', expected auto or schema or text"),
        ('["x"]', "holds a JSON list, expected an object"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(config, said, judge, files, output, review, tmp_path):
    (tmp_path / "judge.json").write_text(config)
    code, _, err = review(arguments(files, output, config=tmp_path / "judge.json"))
    assert code == 1
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"max_cost": 5}, "--max-cost needs --price-in and --price-out"),
        ({"temperature": "-1"}, "--temperature is -1.0, expected a number from 0"),
    ],
)
def test_flags_that_make_no_sense_are_named(words, said, judge, files, output, review):
    code, _, err = review(arguments(files, output, **words))
    assert code == 1
    assert said in err


def test_three_answer_files_are_not_silently_two(judge, files, output, review):
    argv = arguments(files, output)
    argv.insert(argv.index("--output"), str(files["ours"]))
    code, _, err = review(argv)
    assert code == 1
    assert "--answer-list names 3 files; a review compares two" in err


def test_without_a_key_the_variable_is_named(judge, files, output, review, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "OPENAI_API_KEY is not set" in err


def test_a_wrong_key_is_refused_by_a_service_that_checks_it(judge, files, output, review):
    judge.key = "sk-other"
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "HTTP 401: Incorrect API key provided." in err
    assert Counter() == judge.times_asked()
