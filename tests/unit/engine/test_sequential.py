"""One answer by `generate`: streamed pieces add up to it, and it never outgrows the context."""

from __future__ import annotations

import pytest

from llava.engine.sequential import answer
from llava.errors import ContextTooLong, InvalidRequest
from llava.mm_utils import load_image
from llava.model.builder import load_pretrained_model
from llava.prompting import build_prompt, encode_prompt
from llava.text_generation.answer_events import Piece
from llava.text_generation.settings import Sampling
from tests.support.checkpoints import DATA, TOWER


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": 2.5},
        {"top_p": 0.0},
        {"max_new_tokens": 0},
        {"num_beams": 0},
        {"top_k": 0},
        {"seed": -1},
    ],
)
def test_sampling_that_makes_no_sense_is_refused(settings):
    with pytest.raises(InvalidRequest):
        Sampling(**settings)


@pytest.fixture(scope="module")
def v0():
    return load_pretrained_model(DATA / "llava-v0-tiny", device="cpu", dtype="float32", vision_tower=TOWER)


def asked(v0, sampling, **options):
    tokenizer, model, image_processor, context = v0
    prompt = build_prompt(model.config, "What is this?", 1)
    image = load_image(DATA / "images" / "tiny.png")
    inputs = encode_prompt(prompt.text, [image], model, tokenizer, image_processor)
    options = {"context_length": context, "stop": (prompt.stop,), "prefixes": prompt.roles} | options
    return answer(model, tokenizer, inputs, sampling, **options)


def test_streamed_pieces_add_up_to_the_answer(v0):
    pieces: list[Piece] = []
    result = asked(v0, Sampling(temperature=0, max_new_tokens=24), on_piece=pieces.append)
    assert "".join(piece.text for piece in pieces) == result.text
    assert sum(piece.num_new_tokens for piece in pieces) == result.num_new_tokens
    assert (result.finish_reason, result.num_new_tokens) == ("length", 24)


def test_stop_text_ends_generation_early(v0):
    whole = asked(v0, Sampling(temperature=0, max_new_tokens=24))
    word = whole.text.split()[3]
    cut = asked(v0, Sampling(temperature=0, max_new_tokens=24), stop=(word,))
    assert cut.text == whole.text[: whole.text.index(word)].rstrip()
    assert (cut.finish_reason, cut.num_new_tokens < 24) == ("stop", True)


def test_answer_is_limited_to_what_the_context_leaves_and_a_full_context_is_an_error(v0):
    num_prompt = asked(v0, Sampling(temperature=0, max_new_tokens=1)).num_prompt_tokens
    assert asked(v0, Sampling(temperature=0), context_length=num_prompt + 3).num_new_tokens == 3
    with pytest.raises(ContextTooLong, match=f"have {num_prompt} tokens, but the model's context is {num_prompt}"):
        asked(v0, Sampling(temperature=0), context_length=num_prompt)


def test_same_seed_gives_the_same_sample(v0):
    texts = [asked(v0, Sampling(temperature=1.5, max_new_tokens=16, seed=seed)).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
