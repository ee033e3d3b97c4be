"""Questions answered for a benchmark by a real model: in batches, by several processes, after a kill."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava.eval import merge_answers, model_qa, model_vqa, model_vqa_loader, model_vqa_mmbench, model_vqa_science
from llava.eval.answering import local_model
from llava.model import builder
from llava.serve.service.server import free_port
from tests.support.checkpoints import DATA, TOWER
from tests.support.science_qa import make_science_qa, write_lines
from tests.support.vqa import GREEDY, IMAGES, QUESTIONS, ask, generate, records, six_questions, write_questions
from tests.support.warm_python import warm_environment

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """The file that one run over six questions writes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert answer(folder) == 0
    return (folder / "a.jsonl").read_bytes()


def answer(folder: Path, *words: object, questions: list[dict] | None = None, module=model_vqa) -> int:
    """Runs `module`, greedy, on a question file in `folder`; answers go to a.jsonl there."""
    file = write_questions(folder, questions)
    common = ("--question-file", file, "--image-folder", IMAGES, "--answers-file", folder / "a.jsonl")
    return generate(module, *common, *GREEDY, *words)


def texts(file: Path) -> list[str]:
    return [record["text"] for record in records(file)]


def test_each_question_has_its_answer_in_the_order_of_the_questions(undisturbed):
    answers = [json.loads(line) for line in undisturbed.splitlines()]
    questions = six_questions()
    assert [record["question_id"] for record in answers] == [question["question_id"] for question in questions]
    assert [record["prompt"] for record in answers] == [question["text"] for question in questions]
    assert "sneaker" in answers[0]["text"]
    assert ("photograph" in answers[2]["text"], "drawing" in answers[3]["text"]) == (True, True)
    assert all(
        list(record) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"] for record in answers
    )
    assert len({record["answer_id"] for record in answers}) == 6
    told = answers[0]["metadata"]
    assert answers[0]["model_id"] == "tiny"
    assert (told["conv_mode"], told["temperature"], told["max_new_tokens"]) == ("v0_train", 0, 24)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_do_not_depend_on_how_many_are_made_at_once(tmp_path, undisturbed, batch_size):
    assert answer(tmp_path, "--batch-size", batch_size) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == undisturbed


def test_sampled_answers_depend_on_the_seed_and_on_nothing_else(tmp_path):
    files = []
    for name, words in (("one", ("--batch-size", 1)), ("many", ()), ("other", ("--seed", 1))):
        (tmp_path / name).mkdir()
        assert answer(tmp_path / name, "--temperature", "1.5", *words) == 0
        files.append((tmp_path / name / "a.jsonl").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_template_and_a_checkpoint_of_v0_give_the_originals_text(tmp_path, data):
    """Of the case that the original answered with the evaluators' default template."""
    [case] = [
        case
        for case in json.loads((data / "golden_inference.json").read_text())["v0"]
        if "imple" in case["prompt"][:99] or case["conv_mode"] == "simple"
    ]
    file = write_lines(tmp_path / "q.jsonl", [ask(1, case["query"], case["image"])])
    model = ("--model-name", DATA / "llava-v0-tiny", "--vision-tower", TOWER, "--dtype", "float32")
    words = ("--question-file", file, "--image-folder", DATA / "images", "--answers-file", tmp_path / "a.jsonl")
    assert generate(model_vqa, *model, *words, "--temperature", "0", "--max-new-tokens", "32") == 0
    [record] = records(tmp_path / "a.jsonl")
    assert record["text"] == case["greedy_text"].strip()
    assert record["metadata"]["conv_mode"] == "simple"


# Interrupted and gone on with


def test_what_is_missing_is_answered_and_the_file_is_as_if_nothing_had_happened(tmp_path, undisturbed, capsys):
    lines = undisturbed.splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(lines[4] + lines[1] + lines[5][:40])
    assert answer(tmp_path) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == undisturbed
    captured = capsys.readouterr()
    assert "the last record was cut off" in captured.err
    assert "6 answers, 2 of them from an earlier run" in captured.out


def test_a_finished_run_is_not_loaded_for(tmp_path, undisturbed, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(undisturbed)
    monkeypatch.setattr(builder, "load_pretrained_model", lambda *args, **kwargs: pytest.fail("loaded"))
    assert answer(tmp_path) == 0


def test_a_run_of_other_settings_leaves_the_file_alone(tmp_path, undisturbed, capsys):
    (tmp_path / "a.jsonl").write_bytes(undisturbed)
    assert answer(tmp_path, "--conv-mode", "simple") == 1
    assert 'was answered with conv_mode "v0_train", but this run has conv_mode "simple"' in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_bytes() == undisturbed
    assert answer(tmp_path, "--conv-mode", "simple", "--overwrite") == 0
    assert [record["metadata"]["conv_mode"] for record in records(tmp_path / "a.jsonl")] == ["simple"] * 6


def many_questions() -> list[dict]:
    rng = random.Random(5)
    return [
        ask(number, f"{QUESTIONS[number % 3]} {rng.randrange(1000)}", ("sneaker.png", "scene.png")[number // 3 % 2])
        for number in range(60)
    ]


def command(folder: Path, *words: object) -> list[str]:
    """`answer` as a command of its own."""
    common = ("--question-file", folder / "questions.jsonl", "--image-folder", IMAGES)
    return [*map(str, ("llava.eval.model_vqa", *common, "--answers-file", folder / "a.jsonl", *GREEDY, *words))]


# Answers questions and waits after some of them, so that what kills it does so in the middle on any machine.
WAITS_IN_THE_MIDDLE = """
import runpy, sys, time
from llava.eval.data.answers_file import AnswersFile

append = AnswersFile.append
written = []

def append_and_wait(self, record):
    append(self, record)
    written.append(record)
    if len(written) == 7:
        print("in the middle", flush=True)
        time.sleep(600)

AnswersFile.append = append_and_wait
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_and_started_again_is_that_of_an_uninterrupted_one(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    file = write_questions(killed, many_questions())
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS_IN_THE_MIDDLE, *command(killed, "--batch-size", "2")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    written = killed / "a.jsonl"
    assert process.stdout is not None
    while process.stdout.readline() not in ("in the middle\n", ""):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was killed before it was done"
    assert written.read_bytes().count(b"\n") == 7
    assert answer(killed, questions=many_questions()) == 0
    assert answer(whole, questions=many_questions()) == 0
    assert written.read_bytes() == (whole / "a.jsonl").read_bytes()
    assert file.exists()


def test_an_interrupt_keeps_what_is_answered_and_says_so(tmp_path, undisturbed, monkeypatch, capsys):
    real = local_model.LocalModel.answer

    async def stopped_at_the_third(self, question):
        if question.record["question_id"] == 6:
            raise KeyboardInterrupt
        return await real(self, question)

    with monkeypatch.context() as patch:
        patch.setattr(local_model.LocalModel, "answer", stopped_at_the_third)
        assert answer(tmp_path, "--batch-size", 1) == 130
    kept = len(records(tmp_path / "a.jsonl"))
    assert f"{kept} answers are saved. Run the same command to continue." in capsys.readouterr().err
    assert answer(tmp_path) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == undisturbed


# Several processes


@pytest.mark.slow
def test_two_processes_of_torchrun_write_what_one_writes(tmp_path, undisturbed):
    write_questions(tmp_path)
    port = ("--master-port", str(free_port()))
    done = subprocess.run(
        ["torchrun", *port, "--nproc-per-node", "2", "-m", *command(tmp_path)],
        env=warm_environment(),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == undisturbed
    assert sorted(line.split("; ")[0] for line in done.stdout.splitlines()) == [f"{tmp_path}/a.jsonl: 3 answers"] * 2


def test_chunks_as_the_originals_merge_into_the_whole(tmp_path, undisturbed):
    chunks = [tmp_path / f"chunk{index}.jsonl" for index in range(4)]
    for index, chunk in enumerate(chunks):
        assert answer(tmp_path, "--num-chunks", 4, "--chunk-idx", index, "--answers-file", chunk) == 0
    assert [len(records(chunk)) for chunk in chunks] == [2, 2, 2, 0]
    parser = argparse.ArgumentParser()
    merge_answers.add_arguments(parser)
    words = ("--question-file", tmp_path / "questions.jsonl", "--answers-file", tmp_path / "merged.jsonl", *chunks)
    assert merge_answers.main(parser.parse_args([str(word) for word in words])) == 0
    assert (tmp_path / "merged.jsonl").read_bytes() == undisturbed


# What cannot be answered


def test_a_missing_image_is_told_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(builder, "load_pretrained_model", lambda *args, **kwargs: pytest.fail("loaded"))
    assert answer(tmp_path, questions=[*six_questions(), ask(11, image="gone.png")]) == 1
    said = capsys.readouterr().err
    assert f"line 7 (question 11): gone.png is not in {IMAGES} (1 of 7 questions)" in said
    assert "--skip-unanswerable" in said
    assert not (tmp_path / "a.jsonl").exists()


def test_unanswerable_questions_are_left_out_only_if_asked_for_and_named(tmp_path, undisturbed, capsys):
    questions = [*six_questions(), ask(11, image="gone.png"), ask(12, "Why? " * 2000)]
    assert answer(tmp_path, "--skip-unanswerable", questions=questions) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == undisturbed
    said = capsys.readouterr().err
    assert "skipped 2 of 8 questions" in said
    assert "line 7 (question 11): gone.png is not in" in said
    assert "line 8 (question 12): prompt and images have" in said


def test_a_damaged_image_costs_its_own_answer_only_and_is_asked_again(tmp_path, undisturbed, capsys):
    images = tmp_path / "images"
    images.mkdir()
    (images / "sneaker.png").write_bytes((IMAGES / "sneaker.png").read_bytes())
    (images / "scene.png").write_bytes((IMAGES / "scene.png").read_bytes()[:200])
    assert answer(tmp_path, "--image-folder", images) == 1
    said = capsys.readouterr().err
    assert "3 of 6 questions have no answer" in said
    assert "line 2 (question 9)" in said
    assert "scene.png" in said
    assert len(records(tmp_path / "a.jsonl")) == 3
    (images / "scene.png").write_bytes((IMAGES / "scene.png").read_bytes())
    assert answer(tmp_path, "--image-folder", images) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == undisturbed


def test_empty_and_cut_answers_are_kept_and_counted(tmp_path, monkeypatch, capsys):
    real = builder.load_pretrained_model

    def ends_where_it_would_begin_with_a(*args, **kwargs):
        tokenizer, model, image_processor, context = real(*args, **kwargs)
        a, end = tokenizer.convert_tokens_to_ids("\N{LOWER ONE EIGHTH BLOCK}A"), tokenizer.eos_token_id
        with torch.no_grad():
            model.lm_head.weight[end] = model.lm_head.weight[a]
            model.lm_head.weight[a] = 0
        return tokenizer, model, image_processor, context

    monkeypatch.setattr(builder, "load_pretrained_model", ends_where_it_would_begin_with_a)
    assert answer(tmp_path, "--max-new-tokens", 2) == 0
    answers = texts(tmp_path / "a.jsonl")
    said = capsys.readouterr().err
    num_empty = answers.count("")
    assert num_empty > 0
    assert f"{num_empty} answers are empty: questions " in said
    assert "answers were cut at --max-new-tokens: questions " in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--question-file", "no/such.jsonl"), "no/such.jsonl: no such file or folder (searched the current folder, "),
        (("--image-folder", "no/such"), "no/such: no such file or folder"),
        (("--model-name", "no/such/model"), "no such model folder"),
        (("--conv-mode", "simpel"), "Did you mean 'simple'"),
        (("--temperature", "3"), "between 0 and 2"),
        (("--batch-size", "0"), "--batch-size 0"),
        (("--chunk-idx", "1"), "chunk 1 of 1"),
        (("--num-gpus", "9"), "--num-gpus 9"),
        (("--answers-file", "."), "is a folder"),
    ],
)
def test_wrong_flags_are_told_in_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert answer(tmp_path, *words) == 1
    assert said in capsys.readouterr().err
    file = tmp_path / "a.jsonl"
    assert not file.exists() or not file.read_bytes()


# The other generators


def test_the_loader_is_the_same_with_fewer_tokens(tmp_path, undisturbed):
    assert answer(tmp_path, module=model_vqa_loader) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == undisturbed


def test_a_model_of_text_only_answers_questions_without_images(tmp_path):
    file = write_lines(tmp_path / "q.jsonl", [{"question_id": number, "text": f"Say {number}."} for number in (1, 2)])
    model = ("--model-name", DATA / "llama-vicuna-tiny", "--dtype", "float32")
    words = ("--question-file", file, "--answers-file", tmp_path / "a.jsonl", "--temperature", "0")
    assert generate(model_qa, *model, *words, "--max-new-tokens", "8") == 0
    assert [record["question_id"] for record in records(tmp_path / "a.jsonl")] == [1, 2]


def test_mmbench_is_asked_in_rounds_with_the_images_of_its_file(tmp_path):
    import base64

    sneaker = base64.b64encode((IMAGES / "sneaker.png").read_bytes()).decode()
    rows = [
        "index\tquestion\thint\tA\tB\tC\tD\timage",
        f"4\tWhat is in the picture?\t\ta sneaker\ta bag\ta coat\t\t{sneaker}",
        "1000004\tIs this a drawing or a photograph?\t\tdrawing\tphotograph\t\t\t4",
    ]
    (tmp_path / "m.tsv").write_text("\n".join(rows) + "\n")
    words = ("--question-file", tmp_path / "m.tsv", "--answers-file", tmp_path / "a.jsonl", "--all-rounds")
    assert generate(model_vqa_mmbench, *words, *GREEDY, "--single-pred-prompt") == 0
    answers = records(tmp_path / "a.jsonl")
    assert [(record["question_id"], record["round_id"]) for record in answers] == [
        *((4, number) for number in range(3)),
        *((1000004, number) for number in range(2)),
    ]
    assert answers[1]["options"] == ["a bag", "a coat", "a sneaker"]
    assert answers[1]["option_char"] == ["B", "C", "A"]
    assert answers[0]["metadata"]["single_pred_prompt"] == "en"


# ScienceQA


def science(folder: Path, *words: object, name: str = "a.jsonl") -> list[dict]:
    from llava.eval import convert_science_qa

    base = make_science_qa(folder / "data", 4)
    convert = ("convert_to_llava", "--base-dir", base, "--split", "minitest")
    assert generate(convert_science_qa, *convert) == 0
    common = ("--question-file", base / "llava_minitest.json", "--image-folder", base / "images" / "test")
    assert generate(model_vqa_science, *common, "--answers-file", folder / name, *GREEDY, *words) == 0
    return records(folder / name)


def test_science_questions_are_asked_for_an_explanation_and_then_for_the_letter(tmp_path):
    explained = science(tmp_path)
    prompted = science(tmp_path, "--answer-prompter", name="b.jsonl")
    assert [record["question_id"] for record in prompted] == ["1", "2", "3", "4"]
    for plain, record in zip(explained, prompted, strict=True):
        reasoning, _, letter = record["text"].partition("\n The answer is ")
        assert reasoning == plain["text"].partition("###")[0].rstrip()
        assert letter.strip() == letter
        assert record["metadata"]["answer_prompter"] is True
    assert ["<image>" in record["prompt"] for record in prompted] == [False, True, False, True]


def test_science_questions_are_asked_for_the_letter_alone(tmp_path):
    for record in science(tmp_path, "--single-pred-prompt"):
        assert record["prompt"].endswith("\nAnswer with the option's letter from the given choices directly.")


def test_an_explanation_that_fills_the_context_leaves_no_letter_and_no_error(tmp_path, monkeypatch, capsys):
    from llava.engine import Engine

    class Short(Engine):
        def __init__(self, model, tokenizer, image_processor, context_length, settings=None):
            super().__init__(model, tokenizer, image_processor, 330, settings)

    monkeypatch.setattr("llava.engine.Engine", Short)
    texts = [record["text"] for record in science(tmp_path, "--answer-prompter", "--max-new-tokens", "1024")]
    assert all("\n The answer is " in text for text in texts)
