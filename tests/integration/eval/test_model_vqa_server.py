"""Questions of a benchmark answered by a running server: as a model here would, and what happens when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from llava.engine import Engine, Request
from llava.errors import EngineFailed, InvalidRequest, OutOfMemory, QueueFull
from llava.eval import model_vqa, model_vqa_science
from llava.eval.answering import server_model
from llava.model.builder import load_pretrained_model
from llava.pocket import find
from llava.serve.service.security import ApiKeys
from llava.serve.worker.app import create_worker_app
from llava.serve.worker.engine_backend import EngineBackend, LoadedModel
from tests.support.fake_backend import Plan
from tests.support.serving import running
from tests.support.vqa import GREEDY, IMAGES, ask, generate, records, write_questions
from tests.support.worker import ANSWER, serving


@pytest.fixture(scope="module")
def tiny() -> Iterator[str]:
    """The address of a worker that serves the embedded model."""

    def load() -> LoadedModel:
        tokenizer, model, image_processor, context = load_pretrained_model(find("tiny"), device="cpu")
        return LoadedModel(Engine(model, tokenizer, image_processor, context), model.config, Request)

    app = create_worker_app(EngineBackend("tiny", load))
    with running(app, ready=app.state.worker.start) as server:
        yield server.url


def through(address: str, folder: Path, *words: object, questions: list[dict] | None = None) -> int:
    file = write_questions(folder, questions)
    files = ("--question-file", file, "--image-folder", IMAGES, "--answers-file", folder / "a.jsonl")
    return generate(model_vqa, "--server", address, *files, *GREEDY, *words)


@pytest.mark.embedded
def test_a_server_answers_as_the_same_model_does_here(tiny, tmp_path):
    assert through(tiny, tmp_path) == 0
    file = tmp_path / "questions.jsonl"
    words = ("--question-file", file, "--image-folder", IMAGES, "--answers-file", tmp_path / "here.jsonl")
    assert generate(model_vqa, *words, *GREEDY) == 0
    served, here = records(tmp_path / "a.jsonl"), records(tmp_path / "here.jsonl")
    for record in (*served, *here):
        told = record.pop("metadata")
        assert "server_model" in told or "checkpoint" in told
    assert served == here


@pytest.mark.embedded
def test_asking_a_server_loads_no_torch(tiny, tmp_path, run_python):
    file = write_questions(tmp_path, [ask(1)])
    words = ("--server", tiny, "--question-file", file, "--image-folder", IMAGES, "--answers-file", tmp_path / "a")
    probe = """
import sys
from llava.eval import model_vqa
from tests.support.vqa import generate
code = generate(model_vqa, *sys.argv[1:])
sys.exit(code or ("torch" in sys.modules) or ("transformers" in sys.modules))
"""
    done = run_python("-c", probe, *words, *GREEDY)
    assert (done.returncode, done.stderr.count("error")) == (0, 0), done.stderr
    assert "sneaker" in records(tmp_path / "a")[0]["text"]


# A server with faults


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(server_model, "_PAUSES_S", (0.01, 0.01))


def test_a_full_server_is_asked_again(served, tmp_path, impatient):
    refusals = iter([QueueFull("64 requests wait already")] * 2)
    served.engine.plan = lambda request: Plan(error=next(refusals, None))
    assert through(served.url, tmp_path) == 0
    assert [record["text"] for record in records(tmp_path / "a.jsonl")] == [ANSWER] * 6


def test_a_server_that_stays_full_ends_the_run_and_what_is_answered_stays(served, tmp_path, impatient, capsys):
    def plan(request):
        return Plan(error=None if "drawing" in request.prompt else QueueFull("64 requests wait already"))

    served.engine.plan = plan
    assert through(served.url, tmp_path, "--batch-size", 1) == 1
    assert "64 requests wait already" in capsys.readouterr().err
    before = len(records(tmp_path / "a.jsonl"))
    served.engine.plan = lambda request: Plan()
    assert through(served.url, tmp_path) == 0
    assert before <= 2
    assert len(records(tmp_path / "a.jsonl")) == 6


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("prompt and images have 5000 tokens"), OutOfMemory("too big"), EngineFailed("it failed twice")],
)
def test_a_question_that_the_server_cannot_answer_costs_its_own_answer_only(served, tmp_path, capsys, error):
    served.engine.plan = lambda request: Plan(error=error if "drawing" in request.prompt else None)
    assert through(served.url, tmp_path) == 1
    said = capsys.readouterr().err
    assert "2 of 6 questions have no answer" in said
    assert str(error).rstrip(".") in said
    assert len(records(tmp_path / "a.jsonl")) == 4


def test_when_every_question_fails_the_run_does_not_try_them_all(served, tmp_path, capsys):
    served.engine.plan = lambda request: Plan(error=EngineFailed("it failed twice"))
    assert through(served.url, tmp_path, questions=[ask(number) for number in range(100)]) == 1
    assert "the first 32 questions failed; stopping. Last error: " in capsys.readouterr().err
    assert served.engine.finished < 100


def test_images_travel_byte_for_byte_and_sampling_and_limits_with_them(served, tmp_path):
    words = ("--temperature", "0.5", "--top-p", "0.75", "--max-new-tokens", "7")
    assert through(served.url, tmp_path, *words, questions=[ask(1, image=["sneaker.png", "scene.png"])]) == 0
    # A question of the test before may arrive late, after its run has given up.
    [request] = [request for request in served.engine.seen if len(request.images) == 2]
    for image, name in zip(request.images, ("sneaker.png", "scene.png"), strict=True):
        with Image.open(IMAGES / name) as sent:
            assert image.convert("RGB").tobytes() == sent.convert("RGB").tobytes()
    asked = request.sampling
    assert (asked.temperature, asked.top_p, asked.max_new_tokens) == (0.5, 0.75, 7)
    assert asked.seed is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--conv-mode", "simple"), "--conv-mode cannot be used with --server"),
        (("--num-beams", "2"), "--num-beams cannot be used with --server"),
        (("--dtype", "float16"), "--device, --dtype, --load-8bit cannot be used with --server"),
        (("--model-name", "another"), "no model named 'another' is served here. Available: llava-fake."),
    ],
)
def test_what_a_server_cannot_do_is_refused_at_once(served, tmp_path, capsys, words, said):
    assert through(served.url, tmp_path, *words) == 1
    assert said in capsys.readouterr().err
    assert served.engine.seen == []


def test_the_letter_is_not_asked_for_separately_through_a_server(served, data, capsys):
    file = data / "golden" / "science_qa" / "llava_test_QCM-LEPA.json"
    words = ("--question-file", file, "--skip-unanswerable", "--server", served.url, "--answer-prompter")
    assert generate(model_vqa_science, *words) == 1
    assert "--answer-prompter cannot be used with --server" in capsys.readouterr().err


def test_a_server_that_is_not_there_or_wants_a_key_is_told(tmp_path, capsys, monkeypatch):
    assert through("http://127.0.0.1:9", tmp_path) == 1
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    with serving(keys=ApiKeys("secret-key")) as guarded:
        assert through(guarded.url, tmp_path) == 1
        assert "key" in capsys.readouterr().err
        monkeypatch.setenv("LLAVA_API_KEY", "secret-key")
        assert through(guarded.url, tmp_path) == 0
