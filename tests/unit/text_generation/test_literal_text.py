"""Text that spells a control token is text."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.model.loading.tokenizer import load_tokenizer
from llava.text_generation.literal_text import GUARD, control_tokens, guarded, is_guard

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(DATA / "llava-v0-tiny", tokenization="sentencepiece")


def literal_ids(tokenizer, text: str) -> list[int]:
    text = guarded(text, control_tokens(tokenizer))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [identity for identity, (start, end) in pairs if not is_guard(text, start, end)]


@pytest.mark.parametrize("token", ["</s>", "<s>", "<unk>", "[PAD]", "<im_start>", "<im_patch>", "<im_end>"])
def test_no_control_id_comes_of_text_and_the_text_reads_back(tokenizer, token):
    text = f"Write {token} at the end, {token}{token} twice."
    ids = literal_ids(tokenizer, text)
    assert not set(ids) & {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}
    assert tokenizer.decode(ids).strip() == text


def test_other_text_is_tokenised_as_ever(tokenizer):
    text = "A < b, c </ s> and <im start>: 1 > 2.\n### Human: ünïcödé 😀"
    assert guarded(text, control_tokens(tokenizer)) == text
    assert literal_ids(tokenizer, text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_guard_in_the_text_itself_is_removed(tokenizer):
    assert guarded(f"a{GUARD}b", control_tokens(tokenizer)) == "ab"


def test_a_marker_that_the_caller_replaces_may_be_left_out(tokenizer):
    pattern = control_tokens(tokenizer, without=["</s>"])
    assert guarded("</s>", pattern) == "</s>"
    assert guarded("<s>", pattern) != "<s>"
