"""8 bits on a CPU: the language model alone, close to full precision, and through the engine."""

from __future__ import annotations

import pytest
import torch

from llava.engine import Engine, Request, Sampling
from llava.errors import InvalidRequest
from llava.mm_utils import load_image
from llava.model.builder import load_pretrained_model
from llava.pocket import find
from llava.prompting import build_prompt, encode_prompt
from tests.support.engines import facts

QUESTIONS = (
    "What is in the picture?",
    "Is this a drawing or a photograph?",
    "What is in the picture? Answer with one word.",
)


@pytest.fixture(scope="module")
def models():
    """The embedded model in full precision and in 8 bits."""
    return [
        load_pretrained_model(find("tiny"), device="cpu", dtype="float32"),
        load_pretrained_model(find("tiny"), device="cpu", load_8bit=True),
    ]


@pytest.fixture(scope="module")
def images(repository):
    return [load_image(repository / "playground" / "images" / name) for name in ("sneaker.png", "scene.png")]


def test_only_the_decoder_is_quantised(models):
    full, small = (model for _, model, _, _ in models)
    linear = [name for name, module in small.named_modules() if type(module) is torch.nn.Linear]
    assert "lm_head" in linear
    assert any("vision_tower" in name for name in linear)
    assert not any(".layers." in name and "vision_tower" not in name for name in linear)
    assert torch.equal(full.model.mm_projector.weight, small.model.mm_projector.weight)


def test_answers_are_as_probable_as_in_full_precision(models, images):
    """Each token of the greedy answer: within a twentieth of a nat on average."""
    tokenizer, full, image_processor, _ = models[0]
    prompt = build_prompt(full.config, QUESTIONS[0], 1)
    inputs = encode_prompt(prompt.text, images[:1], full, tokenizer, image_processor)
    answer = full.generate(inputs.input_ids, images=inputs.images, do_sample=False, max_new_tokens=20)
    ids = torch.cat([inputs.input_ids, answer], dim=1)
    probable = []
    for _, model, _, _ in models:
        with torch.inference_mode():
            logits = model(ids, images=inputs.images).logits[0, -answer.shape[1] - 1 : -1].log_softmax(-1)
        probable.append(logits.gather(-1, answer.T))
    assert (probable[0] - probable[1]).abs().mean() < 0.05


def test_greedy_answers_are_the_same(models, images):
    answers = []
    for tokenizer, model, image_processor, context in models:
        with Engine(model, tokenizer, image_processor, context) as engine:
            requests = [
                Request((prompt := build_prompt(model.config, question, 1)).text, (image,), Sampling(0), (prompt.stop,))
                for question in QUESTIONS
                for image in images
            ]
            answers.append([facts(answer) for answer in engine.generate(requests)])
    assert answers[0] == answers[1]


def test_4_bits_on_a_cpu_are_refused():
    with pytest.raises(InvalidRequest, match="need"):
        load_pretrained_model(find("tiny"), device="cpu", load_4bit=True)
