"""The scripts of later releases, scripts/v1_5/eval: questions, answers, marks, in one command.

In the place of the generator a stand-in answers, so that it is the scripts that are looked at, not a model's answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.benchmarks import write_lines

STAND_IN = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path

words = sys.argv[1:]
generator = next((place for place, word in enumerate(words) if word.startswith("llava.eval.model_")), None)
if generator is None:
    os.execv({sys.executable!r}, [{sys.executable!r}, *words])
with open(os.environ["STAND_IN_LOG"], "a") as log:
    log.write(json.dumps(words) + "\\n")
given = dict(zip(words, words[1:]))
questions = Path(given["--question-file"]).read_text().splitlines()
if given["--question-file"].endswith(".tsv"):
    asked = [{{"question_id": int(line.split("\\t")[0]), "round_id": 0}} for line in questions[1:]]
else:
    asked = [json.loads(line) for line in questions]
says = os.environ["STAND_IN_SAYS"]
with open(given["--answers-file"], "w") as answers:
    for question in asked:
        answers.write(json.dumps(question | {{"prompt": question.get("text"), "text": says}}) + "\\n")
"""


@pytest.fixture
def script(tmp_path: Path, repository: Path):
    """Runs a script on the benchmarks below a folder, from another folder; returns what it did and what it asked."""
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    log = tmp_path / "log"
    (tmp_path / "my model").mkdir()

    def run(name: str, *words: str, says: str = "Yes", gpus: str = "") -> tuple[subprocess.CompletedProcess, list[str]]:
        settings = {
            "PYTHON": str(python),
            "STAND_IN_LOG": str(log),
            "STAND_IN_SAYS": says,
            "CUDA_VISIBLE_DEVICES": gpus,
        }
        done = subprocess.run(
            [str(repository / "scripts" / "v1_5" / "eval" / name), *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository), "DATA": "data", **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done, json.loads(log.read_text().splitlines()[-1]) if log.exists() else []

    return run


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "pope"
    (folder / "coco").mkdir(parents=True)
    labels = [{"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}]
    write_lines(folder / "coco" / "coco_pope_random.json", labels)
    asked = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?\nOne word.", "category": "random"}
    write_lines(folder / "llava_pope_test.jsonl", [asked])
    return folder


def test_a_benchmark_is_asked_and_marked_in_one_command(script, pope, tmp_path):
    done, words = script("pope.sh", "my model")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Category: random, # samples: 1\nTP\tFP\tTN\tFN\t\n1\t0\t0\t0\n" in done.stdout
    assert json.loads((pope / "scores" / "my model.json").read_text())["figures"]["accuracy"] == 100
    assert words == [
        *("-m", "llava.eval.model_vqa_loader", "--model-path", str(tmp_path / "my model")),
        *("--question-file", str(pope / "llava_pope_test.jsonl")),
        *("--answers-file", str(pope / "answers" / "my model.jsonl")),
        *("--temperature", "0", "--conv-mode", "vicuna_v1", "--image-folder", str(pope / "val2014")),
    ]


def test_several_gpus_answer_in_a_process_each(script, pope):
    done, words = script("pope.sh", "my model", gpus="0,3,5")
    assert (done.returncode, done.stderr) == (0, "")
    assert words[:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3", "-m"]


def test_mmbench_ends_in_a_workbook(script, tmp_path):
    folder = tmp_path / "data" / "mmbench"
    folder.mkdir(parents=True)
    (folder / "mmbench_dev_20230712.tsv").write_text("index\tquestion\tA\tB\n1\tWhat?\tred\tblue\n")
    done, words = script("mmbench.sh", "some/hub-id", says="B")
    assert (done.returncode, done.stderr) == (0, "")
    assert words[2:4] == ["--model-path", "some/hub-id"]
    assert "1 questions, 1 predictions" in done.stdout
    assert (folder / "answers_upload" / "mmbench_dev_20230712" / "hub-id.xlsx").is_file()


def test_a_benchmark_that_is_not_there_is_named_before_a_model_is_asked(script):
    done, words = script("mme.sh", "my model")
    assert (done.returncode, words) == (1, [])
    assert "data/MME/llava_mme.jsonl: no such file. DATA names the folder" in done.stderr


def test_a_script_tells_its_settings(script):
    done, _ = script("seed.sh", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: bash scripts/v1_5/eval/NAME.sh [MODEL]" in done.stdout
