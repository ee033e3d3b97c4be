"""One answer: streamed pieces add up to it, it ends at the stop text, and it never outgrows the context."""

from __future__ import annotations

import pytest

from llava.errors import ContextTooLong, ImageTokenMismatch, InvalidRequest, UnknownTemplate
from llava.generation import AnswerText, Sampling, answer
from llava.mm_utils import load_image
from llava.model.builder import load_pretrained_model
from llava.prompting import build_prompt, encode_prompt, place_pictures
from tests.support.checkpoints import DATA, TOWER


class Words:
    """A tokenizer whose ids are positions in a list of pieces of text."""

    def __init__(self, *pieces: str):
        self.pieces = pieces

    def decode(self, ids, skip_special_tokens):
        return "".join(self.pieces[i] for i in ids)

    def convert_ids_to_tokens(self, i):
        return self.pieces[i]


def stream(pieces: list[str], stop: str | None, prefixes: tuple[str, ...] = ()) -> tuple[list[str], AnswerText]:
    heard: list[str] = []
    text = AnswerText(Words(*pieces), stop, prefixes, heard.append)
    for i in range(len(pieces)):
        text.update(list(range(i + 1)))
    text.finish()
    return heard, text


@pytest.mark.parametrize(
    ("pieces", "stop", "expected", "stopped"),
    [
        (["A cat", ".", "###", "Human"], "###", "A cat.", True),
        (["A cat", ". #", "##", "Human"], "###", "A cat.", True),
        (["C", "#", " and F", "##", "!"], "###", "C# and F##!", False),
        (["A ", "cat", " "], None, "A cat", False),
        (["  A", " cat</s>"], "</s>", "A cat", True),
        (["One#"], "###", "One#", False),
    ],
)
def test_answer_ends_at_the_stop_text_and_never_shows_a_part_of_it(pieces, stop, expected, stopped):
    heard, text = stream(pieces, stop)
    assert ("".join(heard), text.text, text.stopped) == (expected, expected, stopped)


def test_role_that_the_model_writes_first_is_dropped_before_it_is_shown():
    heard, text = stream(["Ass", "istant", ":", " A", " cat"], "###", ("###", "Assistant:"))
    assert (heard, text.text) == (["A cat"], "A cat")  # "A" alone could still become "Assistant:"


def test_half_a_character_is_never_shown():
    pieces = ["caf", "<0xC3>", "<0xA9>", "!"]

    class Bytes(Words):
        def decode(self, ids, skip_special_tokens):
            raw = b"".join(
                bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.encode() for p in (pieces[i] for i in ids)
            )
            return raw.decode(errors="replace")

    heard: list[str] = []
    text = AnswerText(Bytes(*pieces), None, (), heard.append)
    for i in range(4):
        text.update(list(range(i + 1)))
    assert heard == ["caf", "é!"]


@pytest.mark.parametrize(
    "settings", [{"temperature": -0.1}, {"temperature": 2.5}, {"top_p": 0.0}, {"max_new_tokens": 0}, {"num_beams": 0}]
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
    picture = load_image(DATA / "images" / "tiny.png")
    inputs = encode_prompt(prompt.text, [picture], model, tokenizer, image_processor)
    options = {"context_length": context, "stop": prompt.stop, "prefixes": prompt.roles} | options
    return answer(model, tokenizer, inputs, sampling, **options)


def test_streamed_pieces_add_up_to_the_answer(v0):
    pieces: list[str] = []
    result = asked(v0, Sampling(temperature=0, max_new_tokens=24), on_text=pieces.append)
    assert "".join(pieces) == result.text
    assert (result.finish_reason, result.num_new_tokens) == ("length", 24)


def test_stop_text_ends_generation_early(v0):
    whole = asked(v0, Sampling(temperature=0, max_new_tokens=24))
    word = whole.text.split()[3]
    cut = asked(v0, Sampling(temperature=0, max_new_tokens=24), stop=word)
    assert cut.text == whole.text[: whole.text.index(word)].rstrip()
    assert (cut.finish_reason, cut.num_new_tokens < 24) == ("stop", True)


def test_answer_is_limited_to_what_the_context_leaves_and_a_full_context_is_an_error(v0):
    num_prompt = asked(v0, Sampling(temperature=0, max_new_tokens=1)).num_prompt_tokens
    assert asked(v0, Sampling(temperature=0), context_length=num_prompt + 3).num_new_tokens == 3
    with pytest.raises(ContextTooLong, match=f"have {num_prompt} tokens, the model's context {num_prompt}"):
        asked(v0, Sampling(temperature=0), context_length=num_prompt)


def test_same_seed_gives_the_same_sample(v0):
    import torch

    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(asked(v0, Sampling(temperature=1.5, max_new_tokens=16)).text)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("question", "num_pictures", "first", "expected"),
    [
        ("Why?", 1, True, "<image>\nWhy?"),
        ("Why?", 1, False, "Why?\n<image>"),
        ("Why?", 2, True, "<image>\n<image>\nWhy?"),
        ("Why?", 0, True, "Why?"),
        ("Is <image> like <image-placeholder>?", 2, True, "Is <image> like <image>?"),
    ],
)
def test_pictures_go_where_the_question_or_the_generation_says(question, num_pictures, first, expected):
    assert place_pictures(question, num_pictures, first=first) == expected


def test_wrong_number_of_markers_in_the_question_is_an_error():
    with pytest.raises(ImageTokenMismatch, match="has 1 <image> markers, but 2 pictures"):
        place_pictures("<image> Why?", 2, first=True)


def test_unknown_template_is_an_error_that_offers_the_nearest(v0):
    with pytest.raises(UnknownTemplate, match="multimodal"):
        build_prompt(v0[1].config, "Why?", 1, conv_mode="multimodel")
