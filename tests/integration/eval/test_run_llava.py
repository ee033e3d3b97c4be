"""The single-turn command, as a user runs it."""

from __future__ import annotations

import json

import pytest

from tests.support.checkpoints import DATA

MODEL = ("--model-name", "llava-v0-tiny", "--temperature", "0", "--max-new-tokens", "4", "--dtype", "float32")


GOLDEN = json.loads((DATA / "golden_inference.json").read_text())["v0"]


def ask(run_warm, *arguments: str):
    return run_warm("-m", "llava.eval.run_llava", *arguments, cwd=DATA)


def test_answer_alone_goes_to_standard_output(run_warm):
    done = ask(run_warm, *MODEL, "--image-file", "images/land.png", "--query", "What?")
    assert done.returncode == 0
    assert len(done.stdout.strip().splitlines()) == 1
    assert done.stderr.strip() == "note: the answer was cut at 4 tokens (--max-new-tokens)"


def test_several_images_in_one_question(run_warm):
    one = ask(run_warm, *MODEL, "-i", "images/land.png", "--query", "What?").stdout
    two = ask(run_warm, *MODEL, "-i", "images/land.png", "-i", "images/port.png", "--query", "What?")
    separated = ask(run_warm, *MODEL, "-i", "images/land.png,images/port.png", "--sep", ",", "--query", "What?")
    assert two.returncode == 0
    assert two.stdout == separated.stdout != one


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-i", "images/none.png"), 1, "images/none.png"),
        (("-i", "llava-v0-tiny/config.json"), 1, "config.json"),
        (("-i", "images/land.png", "--conv-mode", "multimodel"), 1, "multimodal"),
        (("-i", "images/land.png", "--temperature", "9"), 1, "between 0 and 2"),
        (("-i", "images/land.png", "--temperature", "warm"), 2, "invalid float"),
        (("-i", "images/land.png", "--model-name", "no/such/model"), 1, "no such model folder"),
        (("-i", "images/land.png", "--vision-tower", "./nowhere"), 1, "--vision-tower DIR"),
        (("-i", "http://127.0.0.1:9/x.png"), 1, "127.0.0.1"),
    ],
)
def test_bad_input_is_one_line_that_names_it(run_warm, arguments, code, message):
    done = ask(run_warm, *MODEL, "--query", "What?", *arguments)
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_command_prints_the_originals_text(run_warm, case):
    done = run_warm(
        *("-m", "llava.eval.run_llava", "--model-name", "llava-v0-tiny", "--image-file", f"images/{case['image']}"),
        *("--query", case["query"], "--conv-mode", case["conv_mode"]),
        *("--temperature", "0", "--max-new-tokens", "32", "--dtype", "float32"),
        cwd=DATA,
        PYTHONIOENCODING="utf-8",
    )
    assert (done.returncode, done.stdout.strip()) == (0, case["greedy_text"].strip()), done.stderr
