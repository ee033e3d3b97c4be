"""Whatever words a model is trained in, it learns its answers and the tokens that end them, and nothing else."""

from __future__ import annotations

import pytest

from llava.constants import IGNORE_INDEX
from llava.conversation import conv_templates
from llava.errors import DataError
from llava.templates.of_folder import folder_template
from llava.train.data.labels import ImageTokens, encode
from llava.train.data.layouts import segments_of, training_template
from llava.train.data.records import Record, RecordTurn
from tests.support.chat_templates import DATED, FAMILIES, QWEN_3, byte_tokenizer

TURNS = ("<image>\nWhat is it?", "A cat.", "And\nnow?", "Two dogs.", "Sure?", "")


def learned(template, tokenizer, *says: str) -> tuple[str, str]:
    """The whole text of a record, and the part of it that is trained."""
    turns = tuple(RecordTurn(("human", "gpt")[index % 2], said) for index, said in enumerate(says))
    segments = segments_of(Record("r", turns, ("a.png",)), template, images_first=True)
    encoded = encode(segments, tokenizer, ImageTokens(as_patches=False, start_end=False), image_lengths=[4])
    labels = [label for label in encoded.labels if label != IGNORE_INDEX]
    return "".join(segment.text for segment in segments), tokenizer.decode(labels)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"), None, "<|im_end|>")


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"mistral_instruct"}))
def test_answers_and_their_ends_are_trained(name, tokenizer):
    template, end = training_template(name), FAMILIES[name][1]
    text, trained = learned(template, tokenizer, *TURNS[:4])
    assert trained == f"A cat.{end}Two dogs.{end}"
    asked = conv_templates[name].copy()
    for index, said in enumerate(TURNS[:3]):
        asked.append_message(asked.roles[index % 2], said)
    asked.append_message(asked.roles[1], None)
    assert text.startswith(asked.get_prompt()), "it is asked in the words that it was trained on"


def test_so_they_are_in_a_folder_s_own_words(tokenizer):
    template = folder_template(DATED)
    text, trained = learned(template, tokenizer, *TURNS[:4])
    assert trained == "A cat.<|im_end|>Two dogs.<|im_end|>"
    assert text.startswith("<|im_start|>system\n## Metadata")
    assert text.endswith("Two dogs.<|im_end|>\n")


def test_an_empty_answer_teaches_nothing_but_its_end(tokenizer):
    _, trained = learned(training_template("chatml"), tokenizer, *TURNS)
    assert trained == "A cat.<|im_end|>Two dogs.<|im_end|><|im_end|>"


def test_words_that_change_behind_the_model_are_refused_for_long_records(tokenizer):
    template = folder_template(QWEN_3)
    _, trained = learned(template, tokenizer, *TURNS[:2])
    assert trained == "<think>\n\n</think>\n\nA cat.<|im_end|>"
    with pytest.raises(DataError, match=r"r: the model.s chat template writes turn 2 otherwise in a longer"):
        learned(template, tokenizer, *TURNS[:4])
