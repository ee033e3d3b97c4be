"""The segments that each training template makes of a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.conversation import conv_templates
from llava.errors import DataError, InvalidRequest
from llava.train.data.layouts import segments_of, training_template, turn_problem
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


SYSTEM = "You are a cook. Answer in rhymes."


@pytest.mark.parametrize(
    ("version", "beginning"),
    [
        ("v0", f"{SYSTEM}\n\n### Human: "),
        ("v1", f"{SYSTEM} USER: "),
        ("v0_mmtag", f"{SYSTEM}\n\n### Human: "),
        ("llava_llama_2", f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\nHi"),
        ("chatml_direct", f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n"),
    ],
)
def test_a_system_turn_replaces_the_templates_system_text(version, beginning):
    turns = [("system", SYSTEM), ("human", "Hi"), ("gpt", "Hello")]
    item = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    segments = segments_of(parse_record(item, "t.json: record 0"), training_template(version), images_first=True)
    assert "".join(segment.text for segment in segments).startswith(beginning)
    assert not any(SYSTEM in segment.text for segment in segments if segment.supervised)


@pytest.mark.parametrize(
    ("version", "roles", "problem"),
    [
        ("v0", "hhgg", None),
        ("v1", "hghg", None),
        ("v1", "ghg", None),
        ("v1", "hhg", "turn 1 (counting from 0) is from 'human', expected 'gpt'"),
        ("v1", "shhg", "turn 2 (counting from 0) is from 'human', expected 'gpt'"),
        ("v1", "gg", "turn 1 (counting from 0) is from 'gpt', expected 'human'"),
        ("v1", "g", "no question is left"),
        ("chatml_direct", "hgg", "turn 2 (counting from 0)"),
        ("llava_llama_2", "hhg", "turn 1 (counting from 0)"),
        ("plain", "shg", "no place for a system turn"),
        ("plain", "hghg", "found 4 turns"),
        ("plain", "hg", "one human turn with <image>"),
    ],
)
def test_the_turns_are_judged_before_and_in_the_run_alike(version, roles, problem):
    names = {"h": "human", "g": "gpt", "s": "system"}
    item = {"conversations": [{"from": names[role], "value": "text"} for role in roles]}
    record, template = parse_record(item, "t.json: record 0"), training_template(version)
    said = turn_problem(record, template)
    assert (said is None) if problem is None else (problem in str(said))
    if problem is None:
        assert segments_of(record, template, images_first=template.image_first)
    else:
        with pytest.raises(DataError) as caught:
            segments_of(record, template, images_first=template.image_first)
        assert str(caught.value) == f"t.json: record 0: {said}"
