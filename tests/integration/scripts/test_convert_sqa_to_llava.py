"""ScienceQA as the README runs it: converted, answered by several processes, gathered and marked.

The processes run a stand-in for the generator, so that it is the scripts that are looked at, not a model's answers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.science_qa import answer, make_science_qa, right, write_lines

SPLITS = "{test,minitest}"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder name with a space, which a script without quotes would take apart."""
    return make_science_qa(tmp_path / "Science QA")


@pytest.fixture
def script(tmp_path: Path, repository: Path):
    """Starts one of the shell scripts in a folder of its own; what is left of it at the end is stopped."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *words: object, **environment: str) -> subprocess.Popen[str]:
        settings = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        process = subprocess.Popen(
            [str(repository / "scripts" / name), *map(str, words)],
            cwd=tmp_path,
            env={**settings, "PYTHON": sys.executable, "PYTHONPATH": str(repository), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def batch(script, base, converted):
    def start(*words: object, **environment: str) -> subprocess.Popen[str]:
        stand_in = ("--module", "tests.support.stand_in_generator")
        return script("sqa_eval_batch.sh", "--base-dir", base, "--answers", "out/a b", *stand_in, *words, **environment)

    return start


@pytest.fixture
def converted(base: Path, run_python) -> Path:
    done = run_python(
        "scripts/convert_sqa_to_llava", "convert_to_llava", "--base-dir", base, "--split", "test", "minitest"
    )
    assert done.returncode == 0, done.stderr
    return base


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_readmes_conversion_runs_in_shells_that_expand_braces_and_in_those_that_do_not(base, repository, shell):
    command = f"{sys.executable} scripts/convert_sqa_to_llava convert_to_llava --base-dir '{base}' --split {SPLITS}"
    done = subprocess.run([shutil.which(shell) or shell, "-c", command], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Number of samples: ") == 2
    assert len(list(base.glob("llava_*.json"))) == 4


def test_the_readmes_scorer_runs_by_its_file_name_and_finds_answers_below_the_repository(
    base, tmp_path, repository, run_python
):
    """As in the README: the answers were written from the repository's root, the scorer stands in llava/eval."""
    clone = tmp_path / "clone"
    for folder in ("eval", "files", "reports"):
        shutil.copytree(repository / "llava" / folder, clone / "llava" / folder)
    for file in (repository / "llava").glob("*.py"):
        shutil.copyfile(file, clone / "llava" / file.name)
    (clone / "vqa" / "results").mkdir(parents=True)
    write_lines(clone / "vqa" / "results" / "a.jsonl", [answer(number, right(number)) for number in range(1, 13)])
    folder = clone / "llava" / "eval"
    words = ("--base-dir", base, "--result-file", "vqa/results/a.jsonl", "--output-file", "out/o.json")
    done = run_python("eval_science_qa.py", *words, cwd=folder, PYTHONPATH=str(clone))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Total: 12, Correct: 12, Accuracy: 100.00%")
    assert f"using {clone / 'vqa' / 'results' / 'a.jsonl'}" in done.stderr
    assert len(json.loads((folder / "out" / "o.json").read_text())["correct"]) == 12


def test_answers_of_several_processes_are_gathered_and_marked(batch, tmp_path, repository):
    code, out, err = finished(batch("--gpus", "none", "--processes", 5))
    assert (code, err) == (0, "")
    assert "All 5 chunks are done" in out
    chunks = [records(tmp_path / "out" / f"a b-chunk{number}.jsonl") for number in range(5)]
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 3, 0]
    assert chunks[0][0]["metadata"] == {
        "gpu": "",
        "conv_mode": "simple",
        "answer_prompter": True,
        "single_pred_prompt": False,
        "model": "./checkpoints/LLaVA-13b-v0-science_qa",
    }

    # The command that it printed, as a user would paste it.
    gathered = subprocess.run(
        ["bash", "-c", out.split("Next:")[1].replace("scripts/", f"{repository}/scripts/")],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert gathered.returncode == 0, gathered.stderr
    assert "Total: 12, Correct: 12, Accuracy: 100.00%" in gathered.stdout
    assert [int(record["question_id"]) for record in records(tmp_path / "out" / "a b.jsonl")] == list(range(1, 13))
    assert json.loads((tmp_path / "out" / "a b_result.json").read_text())["correct"] == 12
    assert (tmp_path / "out" / "a b_output.json").is_file()


@pytest.mark.parametrize(
    ("words", "environment", "gpus"),
    [
        (["--gpus", "0,2"], {}, ["0", "2"]),
        (["--gpus", "0,2", "--processes", "3"], {}, ["0", "2", "0"]),
        ([], {"CUDA_VISIBLE_DEVICES": "1,3"}, ["1", "3"]),
        ([], {"CUDA_VISIBLE_DEVICES": ""}, [""]),
    ],
)
def test_each_process_sees_the_gpu_that_is_its_own(batch, tmp_path, words, environment, gpus):
    code, _, err = finished(batch(*words, **environment))
    assert (code, err) == (0, "")
    seen = [records(tmp_path / "out" / f"a b-chunk{number}.jsonl") for number in range(len(gpus))]
    assert [chunk[0]["metadata"]["gpu"] for chunk in seen] == gpus
    assert sum(map(len, seen)) == 12


def test_flags_after_two_dashes_go_to_the_generator_in_the_place_of_its_own(batch, tmp_path):
    code, _, err = finished(batch("--gpus", "none", "--", "--single-pred-prompt", "--conv-mode", "vicuna_v1"))
    assert (code, err) == (0, "")
    settings = records(tmp_path / "out" / "a b-chunk0.jsonl")[0]["metadata"]
    assert (settings["single_pred_prompt"], settings["answer_prompter"], settings["conv_mode"]) == (
        True,
        False,
        "vicuna_v1",
    )


def test_a_chunk_that_fails_is_named_with_its_log_and_nothing_is_gathered_before_it_is_done(
    batch, script, base, tmp_path
):
    code, _, err = finished(batch("--gpus", "none", "--processes", 3, STAND_IN_FAILS="1"))
    assert code == 1
    assert "error: chunk 1 of 3 failed with exit code 3. The end of its log, out/a b-chunk1.log:" in err
    assert "    error: out of memory" in err
    assert "1 of 3 chunks failed" in err
    assert [len(records(tmp_path / "out" / f"a b-chunk{number}.jsonl")) for number in range(3)] == [4, 1, 4]

    gather = ("sqa_eval_gather.sh", "--base-dir", base, "--answers", "out/a b")
    code, _, err = finished(script(*gather))
    assert code == 1
    assert "questions without an answer: 3 of 12 (6, 7, 8)." in err
    assert not (tmp_path / "out" / "a b.jsonl").exists()

    code, _, err = finished(batch("--gpus", "none", "--processes", 3))
    assert (code, err) == (0, "")
    code, out, _ = finished(script(*gather))
    assert (code, out.count("Total: 12, Correct: 12")) == (0, 1)


def test_a_run_cannot_go_on_with_another_number_of_processes(batch):
    assert finished(batch("--gpus", "none", "--processes", 3))[0] == 0
    code, out, err = finished(batch("--gpus", "none", "--processes", 2))
    assert (code, out) == (1, "")
    assert "were started with 3 processes, but this run has 2. Resume with --processes 3, or delete the files" in err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_batch_that_is_stopped_leaves_no_process_behind(batch, tmp_path, sent, code):
    process = batch("--gpus", "none", "--processes", 2, STAND_IN_WAITS="1")
    logs = [tmp_path / "out" / f"a b-chunk{number}.log" for number in range(2)]
    deadline = time.monotonic() + 120
    while not all(log.exists() and "waiting" in log.read_text() for log in logs):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = [int(re.search(r"process (\d+)", log.read_text())[1]) for log in logs]
    process.send_signal(sent)
    assert finished(process)[0] == code
    assert not any(psutil.pid_exists(child) for child in children)


@pytest.mark.parametrize(
    ("name", "words", "code", "said"),
    [
        ("sqa_eval_batch.sh", [], 2, "--base-dir is missing"),
        ("sqa_eval_batch.sh", ["--base-dir"], 2, "--base-dir needs a value"),
        ("sqa_eval_batch.sh", ["--chunks", "8"], 2, "unknown option --chunks"),
        (
            "sqa_eval_batch.sh",
            ["--base-dir", "none"],
            1,
            "none/llava_test_QCM-LEPA.json: no such file. Create it: python",
        ),
        ("sqa_eval_gather.sh", [], 2, "--base-dir is missing"),
        ("sqa_eval_gather.sh", ["--base-dir", "none"], 1, "./test_llava-13b-chunk*.jsonl: no such files. Run"),
    ],
)
def test_wrong_usage_of_a_script_says_what_to_do(script, name, words, code, said):
    done, out, err = finished(script(name, *words))
    assert (done, out) == (code, "")
    assert said in err


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_number_of_processes_that_is_none_is_refused(batch, number):
    code, _, err = finished(batch("--processes", number))
    assert code == 2
    assert f"--processes {number}: must be at least 1" in err


@pytest.mark.parametrize("name", ["sqa_eval_batch.sh", "sqa_eval_gather.sh"])
def test_a_script_tells_its_options(script, name):
    code, out, err = finished(script(name, "--help"))
    assert (code, err) == (0, "")
    assert f"usage: scripts/{name} --base-dir DIR" in out
