"""The segments that each training template makes of a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.conversation import conv_templates
from llava.errors import DataError, InvalidRequest
from llava.train.data.layouts import segments_of, training_template
from llava.train.data.records import parse_record

DATA = Path(__file__).parents[3] / "data"
RECORDS = {
    item["id"]: parse_record(item, "train_conversations.json")
    for item in json.loads((DATA / "train_conversations.json").read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("version", ["llava_llama_2", "v1_mmtag", "chatml_direct", "vicuna_v1"])
def test_training_text_is_the_prompt_that_the_template_chats_with(version):
    """Oracle: `get_prompt` of the same dialogue."""
    record = RECORDS["three_turns_image"]
    template = training_template(version)
    conversation = conv_templates[version].copy()
    for turn in record.turns:
        conversation.append_message(conversation.roles[turn.role == "gpt"], turn.text)
    text = "".join(segment.text for segment in segments_of(record, template, images_first=True))
    assert text.replace("<Image><image></Image>", "<image>") == conversation.get_prompt()


@pytest.mark.parametrize("version", ["llava_llama_2", "chatml_direct", "v1", "plain", "v0", "v0_mmtag"])
def test_every_answer_is_trained_to_its_end_and_no_question_is(version):
    record = RECORDS["one_turn_image"]
    segments = segments_of(record, training_template(version), images_first=True)
    trained = "".join(segment.text for segment in segments if segment.supervised)
    masked = "".join(segment.text for segment in segments if not segment.supervised)
    end = {"llava_llama_2": " </s>", "chatml_direct": "<|im_end|>", "v1": "</s>", "plain": "\n"}.get(version, "\n### ")
    assert trained.endswith(record.turns[1].text + end)
    assert "What is in this picture?" not in trained
    assert record.turns[1].text not in masked


@pytest.mark.parametrize(
    ("version", "conversations", "said"),
    [
        ("plain", [("human", "Hi"), ("gpt", "Hello")], "plain template"),
        ("v1", [("human", "Hi"), ("gpt", "Hello"), ("gpt", "again")], "expected 'human'"),
    ],
)
def test_turns_that_do_not_fit_the_template_name_the_record(version, conversations, said):
    item = {"id": 7, "conversations": [{"from": role, "value": text} for role, text in conversations]}
    record = parse_record(item, "data.json: record 3")
    with pytest.raises(DataError, match=r"data\.json: record 3 \(id 7\)") as caught:
        segments_of(record, training_template(version), images_first=True)
    assert said in str(caught.value)


def test_an_unknown_version_lists_the_known_ones():
    with pytest.raises(InvalidRequest, match="vicuna_v1"):
        training_template("nonsense")
