"""A review that was stopped, killed or had no disk left goes on, and mixes with nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.reviews import arguments, change, make_question_set, read_lines
from tests.support.science_qa import write_lines


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
    files = make_question_set(tmp_path / "qa90", images=30)
    judge.hold_at = 41
    process = start(*arguments(files, output, concurrency=concurrency))
    assert judge.reached.wait(120), process.communicate()
    while len(output.read_bytes().splitlines()) < 40:
        time.sleep(0.02)
    process.send_signal(sent)
    if sent == signal.SIGTERM:
        while "Stopping after the calls in progress" not in process.stderr.readline():
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


def test_a_second_interrupt_gives_up_the_calls_under_way(judge, files, output):
    judge.hold_at = 1
    process = start(*arguments(files, output))
    assert judge.reached.wait(120)
    process.send_signal(signal.SIGINT)
    while "Press Ctrl-C again to abandon them" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped: 0 of 9 are finished" in err
    assert "Traceback" not in err


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
    assert "1 of 1 lines were made by another program" in err
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
    from llava.files.jsonl_log import JsonlLog

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
