"""Inference equals the original's, number by number; vectors computed by the original code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.mm_utils import load_image
from llava.model.builder import load_pretrained_model
from llava.prompting import build_prompt, encode_prompt

DATA = Path(__file__).resolve().parents[2] / "data"
CASES = json.loads((DATA / "golden_inference.json").read_text())
# float32 sums in another order than torch 2.1's; logits reach about 15.
LOGITS = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def golden():
    return load_file(DATA / "golden_inference.safetensors")


@pytest.fixture(scope="module")
def models():
    return {
        era: load_pretrained_model(
            DATA / f"llava-{era}-tiny", device="cpu", dtype="float32", vision_tower=DATA / "clip-tiny"
        )
        for era in ("v0", "v1.5")
    }


def prepared(models, era: str, case: dict):
    tokenizer, model, image_processor, _ = models[era]
    image = load_image(DATA / "images" / case["image"])
    prompt = build_prompt(model.config, case["query"], 1, conv_mode=case["conv_mode"])
    return model, tokenizer, encode_prompt(prompt.text, [image], model, tokenizer, image_processor)


ALL = [pytest.param(era, i, id=f"{era}-case{i}") for era in CASES for i in range(len(CASES[era]))]


@pytest.mark.parametrize(("era", "i"), ALL)
def test_question_and_image_give_the_originals_token_ids(models, golden, era, i):
    _, _, inputs = prepared(models, era, CASES[era][i])
    assert inputs.input_ids[0].tolist() == golden[f"{era}.case{i}.input_ids"].tolist()


@pytest.mark.parametrize(("era", "i"), ALL)
def test_logits_equal_the_originals(models, golden, era, i):
    model, _, inputs = prepared(models, era, CASES[era][i])
    with torch.no_grad():
        logits = model(input_ids=inputs.input_ids, images=inputs.images).logits[0]
    torch.testing.assert_close(logits[-8:], golden[f"{era}.case{i}.logits_last8"], **LOGITS)
    assert logits.argmax(-1).tolist() == golden[f"{era}.case{i}.argmax_per_pos"].tolist()


@pytest.mark.parametrize(("era", "i"), ALL)
def test_greedy_ids_equal_the_originals(models, golden, era, i):
    model, _, inputs = prepared(models, era, CASES[era][i])
    generated = model.generate(inputs.input_ids, images=inputs.images, max_new_tokens=32, do_sample=False)
    # The v1.5 release puts one begin-of-sequence id before what it generated.
    assert generated[0].tolist() == golden[f"{era}.case{i}.greedy_ids"].tolist()[-32:]


@pytest.mark.parametrize("era", list(CASES))
def test_projected_features_equal_the_originals(models, golden, era):
    model, _, inputs = prepared(models, era, CASES[era][0])
    with torch.no_grad():
        projected = model.encode_images(inputs.images)[0]
    torch.testing.assert_close(projected[::16], golden[f"{era}.case0.projected"], atol=1e-5, rtol=0)


def test_tower_features_equal_the_originals(models, golden):
    model, _, inputs = prepared(models, "v0", CASES["v0"][0])
    features = model.get_vision_tower()(torch.stack(inputs.images))[0]
    torch.testing.assert_close(features[::16], golden["v0.case0.tower_features"], atol=1e-5, rtol=0)


def test_spliced_embeddings_equal_the_originals(models, golden):
    model, _, inputs = prepared(models, "v1.5", CASES["v1.5"][0])
    with torch.no_grad():
        spliced = model.splice_images(inputs.input_ids, None, None, inputs.images)
    torch.testing.assert_close(spliced.inputs_embeds[0, ::8], golden["v1.5.case0.inputs_embeds"], atol=1e-5, rtol=0)
