"""A LLaVA on any decoder equals transformers' own model of the same weights.

transformers' LLaVA leaves out what some causal classes do behind their layers (the soft cap of Gemma, the multiplier of
Cohere and Granite), so the decoder's own causal class, given the features of transformers' LLaVA, is the oracle.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from llava.command_line import run
from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.engine import Engine, Request, Sampling
from llava.model import convert
from llava.model.builder import load_pretrained_model
from llava.model.language_model.decoders import TESTED
from llava.prompting import encode_prompt
from tests.support.checkpoints import VOCABULARY, write_nested
from tests.support.decoders import tiny_decoder

# float32, the same operations in the same order but for the splice.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NUM_FEATURES = 16
AFTER_LAYERS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""What transformers' LLaVA leaves out of what a decoder does behind its layers."""
QUESTIONS = (
    "What is this?",
    "Why? And where and when did it happen, and to whom, and who has seen it? Please tell me all of it.",
    "How many are there?",
)
"""The second is longer than the window of decoders that have one."""


@pytest.fixture(scope="module", params=sorted(TESTED))
def pair(request, tmp_path_factory):
    """transformers' LLaVA on one decoder, and ours loaded from its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = write_nested(folder, text=tiny_decoder(request.param))
    tokenizer, ours, image_processor, context_length = load_pretrained_model(folder, device="cpu", dtype="float32")
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    causal = AutoModelForCausalLM.from_config(theirs.config.text_config).eval()
    causal.model, causal.lm_head = theirs.model.language_model, theirs.lm_head
    return SimpleNamespace(
        theirs=theirs,
        causal=causal,
        ours=ours,
        tokenizer=tokenizer,
        loaded=(ours, tokenizer, image_processor, context_length),
        pixels=pixels,
    )


def answer_of_transformers(pair, *after: int, labels: list[int] | None = None):
    """What the decoder's own causal class makes of the prompt with the features of transformers' LLaVA."""
    features = pair.theirs.model.get_image_features(pair.pixels[:1]).pooler_output[0]
    embed = pair.theirs.get_input_embeddings()
    embeds = torch.cat([embed(torch.tensor([1, 30, 40, 50])), features, embed(torch.tensor(after))])[None]
    return pair.causal(inputs_embeds=embeds, labels=None if labels is None else torch.tensor([labels]))


def prompt(*after: int) -> torch.Tensor:
    """Some text, an image, and `after`."""
    return torch.tensor([[1, 30, 40, 50, IMAGE_TOKEN_INDEX, *after]])


@torch.no_grad()
def test_logits_are_those_of_transformers(pair):
    ours = pair.ours(input_ids=prompt(60, 70, 80), images=pair.pixels[:1]).logits
    theirs = answer_of_transformers(pair, 60, 70, 80).logits
    torch.testing.assert_close(ours, theirs, **CLOSE)


@torch.no_grad()
def test_rows_of_a_batch_give_what_they_give_alone_and_with_a_cache(pair):
    rows = [prompt(60, 70), prompt(80, 90, 100, 110, 120)]
    alone = [
        pair.ours.generate(ids, images=pair.pixels[i : i + 1], max_new_tokens=6, do_sample=False)[0].tolist()
        for i, ids in enumerate(rows)
    ]
    uncached = pair.ours.generate(rows[0], images=pair.pixels[:1], max_new_tokens=6, do_sample=False, use_cache=False)
    assert uncached[0].tolist() == alone[0]
    padded = torch.zeros(2, rows[1].shape[1], dtype=torch.long)
    mask = torch.zeros_like(padded)
    for i, ids in enumerate(rows):
        padded[i, -ids.shape[1] :], mask[i, -ids.shape[1] :] = ids[0], 1
    together = pair.ours.generate(padded, images=pair.pixels, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for row, expected in zip(together.tolist(), alone, strict=True):
        assert row[: len(expected)] == expected


def test_the_loss_is_that_of_transformers_and_reaches_the_projector(pair):
    labels = torch.tensor([[IGNORE_INDEX] * 5 + [IGNORE_INDEX, 70, 80]])
    wide = [IGNORE_INDEX] * (4 + NUM_FEATURES) + [IGNORE_INDEX, 70, 80]
    theirs = answer_of_transformers(pair, 60, 70, 80, labels=wide).loss
    for training in (False, True):
        pair.ours.train(training)
        loss = pair.ours(input_ids=prompt(60, 70, 80), images=pair.pixels[:1], labels=labels).loss
        torch.testing.assert_close(loss, theirs, **CLOSE)
    loss.backward()
    gradients = [parameter.grad for parameter in pair.ours.model.mm_projector.parameters()]
    pair.ours.zero_grad(set_to_none=True)
    pair.ours.eval()
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@torch.no_grad()
def test_saved_in_the_originals_format_it_gives_the_same_logits(pair, tmp_path):
    pair.ours.save_pretrained(tmp_path)
    pair.tokenizer.save_pretrained(tmp_path)
    _, again, _, _ = load_pretrained_model(tmp_path, device="cpu", dtype="float32")
    assert type(again) is type(pair.ours)
    inputs = {"input_ids": prompt(60, 70, 80), "images": pair.pixels[:1]}
    assert torch.equal(again(**inputs).logits, pair.ours(**inputs).logits)


def test_the_engine_gives_in_batches_what_generate_gives_alone(pair):
    model, tokenizer, image_processor, _ = pair.loaded
    images = [Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").convert("RGB")]
    requests = [
        Request(
            f"{DEFAULT_IMAGE_TOKEN}\n{question}", (images[number % 2],), Sampling(0, max_new_tokens=6 + number), stop=()
        )
        for number, question in enumerate(QUESTIONS)
    ]
    with Engine(*pair.loaded) as engine:
        answers = engine.generate(requests)
        assert engine.limit > 1, "requests are answered one by one"
    for request, answer in zip(requests, answers, strict=True):
        inputs = encode_prompt(request.prompt, request.images, model, tokenizer, image_processor)
        ids = model.generate(
            inputs.input_ids,
            images=inputs.images,
            image_sizes=inputs.image_sizes,
            do_sample=False,
            max_new_tokens=request.sampling.max_new_tokens,
        )
        assert answer.text == tokenizer.decode(ids[0], skip_special_tokens=True).strip()


@torch.no_grad()
def test_an_export_is_the_same_model_to_transformers_and_comes_back(pair, tmp_path):
    pair.ours.save_pretrained(tmp_path / "own")
    pair.tokenizer.save_pretrained(tmp_path / "own")
    converted(tmp_path / "own", tmp_path / "export", "--conv-mode", "vicuna_v1")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "export", dtype=torch.float32).eval()
    image = theirs.config.image_token_id
    wide = torch.tensor([[1, 30, 40, 50, *[image] * NUM_FEATURES, 60, 70, 80]])
    found = theirs(input_ids=wide, pixel_values=pair.pixels[:1]).logits[..., :VOCABULARY]
    ours = pair.ours(input_ids=prompt(60, 70, 80), images=pair.pixels[:1]).logits[..., :VOCABULARY]
    assert torch.equal(found.argmax(-1), ours.argmax(-1))
    if not any(getattr(pair.ours.config, key, None) for key in AFTER_LAYERS):
        torch.testing.assert_close(found, ours, **CLOSE)
    converted(tmp_path / "export", tmp_path / "back")
    _, back, _, _ = load_pretrained_model(tmp_path / "back", device="cpu", dtype="float32")
    again = back(input_ids=prompt(60, 70, 80), images=pair.pixels[:1]).logits
    torch.testing.assert_close(again, pair.ours(input_ids=prompt(60, 70, 80), images=pair.pixels[:1]).logits, **CLOSE)


def converted(source: Path, target: Path, *more: str) -> None:
    argv = ["--model-path", str(source), "--output", str(target), "--quiet", *more]
    assert run(convert.add_arguments, convert.main, argv=argv) == 0
