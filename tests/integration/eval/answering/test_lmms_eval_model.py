"""LLaVA as a model of lmms-eval: the embedded model, asked as lmms-eval asks."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from llava.pocket import find
from tests.support import lmms_eval_stand_in as stand_in

SETTINGS = {"max_new_tokens": 24, "temperature": 0, "do_sample": False}
TASK = Path(__file__).resolve().parents[3] / "data" / "lmms_eval"


@pytest.fixture(scope="module")
def module():
    """Our module, imported as lmms-eval would import it."""
    before = {name: sys.modules.get(name) for name in stand_in.modules()}
    sys.modules.update(stand_in.modules())
    yield import_module("llava.eval.answering.lmms_eval_model")
    sys.modules.pop("llava.eval.answering.lmms_eval_model")
    for name, old in before.items():
        if old is None:
            sys.modules.pop(name)
        else:
            sys.modules[name] = old


@pytest.fixture(scope="module")
def loaded(module, repository):
    model = module.LlavaEngine(pretrained=str(find("tiny")), device="cpu", dtype="float32", batch_size="1")
    documents = [json.loads(line) for line in (TASK / "questions.jsonl").read_text().splitlines()]
    model.task_dict = {"images": {"test": [*documents, {"image": None}, {"image": "film"}]}}
    yield model
    model.clean()


@pytest.fixture
def model(loaded):
    loaded.cache_hook.kept.clear()
    return loaded


@pytest.fixture
def visual(repository):
    def doc_to_visual(document: dict) -> list:
        if document["image"] in (None, "film"):
            return [document["image"]] if document["image"] else []
        return [Image.open(repository / document["image"])]

    return doc_to_visual


def asked(model, visual, number: int, context: str | None = None, **settings):
    document = model.task_dict["images"]["test"][number]
    context = document["question"] if context is None else context
    return stand_in.Instance((context, {**SETTINGS, **settings}, visual, number, "images", "test"))


def test_the_entry_point_names_the_class(module, repository):
    declared = (repository / "pyproject.toml").read_text()
    assert (
        '[project.entry-points."lmms_eval.models"]\nllava_engine = "llava.eval.answering.lmms_eval_manifest:manifest"'
        in declared
    )
    manifest = import_module("llava.eval.answering.lmms_eval_manifest").manifest()
    assert manifest.model_id == "llava_engine"
    home, _, name = manifest.simple_class_path.rpartition(".")
    assert getattr(import_module(home), name) is module.LlavaEngine


def test_questions_are_answered_in_their_order_alone_or_together(model, visual):
    requests = [asked(model, visual, number) for number in (0, 4, 6, 2)]
    together = model.generate_until(requests)
    assert together == [model.generate_until([request])[0] for request in requests]
    assert "sneaker" in together[0].lower()
    assert [(kind, request[0]) for kind, request, _ in model.cache_hook.kept[:4]] == [
        ("generate_until", request.args[0]) for request in requests
    ]


def test_an_answer_ends_where_the_task_says(model, visual):
    whole = model.generate_until([asked(model, visual, 0)])[0]
    stop = whole.split()[1]
    assert model.generate_until([asked(model, visual, 0, until=[stop])])[0] == whole.split(stop)[0].rstrip()
    assert model.generate_until([asked(model, visual, 0, until=stop)])[0] == whole.split(stop)[0].rstrip()
    assert len(model.generate_until([asked(model, visual, 0, max_new_tokens=1)])[0]) < len(whole)


def test_a_request_that_cannot_be_served_is_marked_and_the_others_are_answered(model, visual, caplog):
    requests = [
        asked(model, visual, 0, "word " * 4000),
        asked(model, visual, 0),
        asked(model, visual, 9, "What happens?"),
        asked(model, visual, 8, "<image> What is it?"),
        asked(model, visual, 8, "Hello"),
    ]
    texts = model.generate_until(requests)
    failed = [text.startswith("[LMMS_EVAL_REQUEST_FAILED] ") for text in texts]
    assert failed == [True, False, True, True, False]
    assert "this model accepts images only" in texts[2]
    assert "3 of 5 requests could not be served: documents 0, 9, 8" in caplog.text
    assert len(model.cache_hook.kept) == 2


def test_greedy_decoding_writes_the_likeliest_continuation(model, visual):
    [answer] = model.generate_until([asked(model, visual, 0)])
    words = [f" {answer}", " This is a coat.", " zzz"]
    scored = model.loglikelihood(
        [stand_in.Instance(("What is in the picture?", word, visual, 0, "images", "test")) for word in words]
    )
    losses, is_greedy = zip(*(one.text for one in scored), strict=True)
    assert is_greedy == (True, False, False)
    assert 0 < losses[0] == min(losses)
    # The engine gave its model away for this, and takes it back.
    assert model.generate_until([asked(model, visual, 0)]) == [answer]


def test_a_continuation_is_scored_without_a_document_too(model):
    """As tasks ask that compare a choice with its chance by itself."""
    likely, unlikely = model.loglikelihood([stand_in.Instance(("", word)) for word in ("This is", "zz zz")])
    assert 0 < likely.text[0] < unlikely.text[0]


def test_a_task_in_rounds_goes_on_until_it_says_so(model, visual):
    def next_round(document, previous_output, round_idx, previous_round_info):
        if round_idx == 2:
            return None, None, True, previous_output, None
        return visual(document), "Is this a drawing or a photograph?", False, previous_output, {"seen": round_idx}

    arguments = ("What is in the picture?", SETTINGS, visual, next_round, 0, "images", "test")
    [rounds] = model.generate_until_multi_round([stand_in.Instance(arguments)])
    alone = model.generate_until([asked(model, visual, 0), asked(model, visual, 2)])
    assert rounds == alone


def test_the_tasks_of_the_repository_score_answers(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(TASK))
    utils = import_module("utils")
    try:
        for line in (TASK / "questions.jsonl").read_text().splitlines():
            document = json.loads(line)
            assert document["choices"][utils.doc_to_target(document)] == document["answer"]
            assert utils.doc_to_visual(document)[0].size == (256, 256)
            assert utils.process_results(document, [f"It is {document['answer'].upper()}."]) == {"accuracy": 1.0}
    finally:
        sys.modules.pop("utils")
