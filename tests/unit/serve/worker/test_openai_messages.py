"""What the OpenAI protocol takes and refuses, and how its messages become the prompt of a checkpoint's own template."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from llava.conversation import conv_templates, template
from llava.errors import ImageTokenMismatch, InvalidRequest, TemplateError, UnknownTemplate, UnsupportedParameter
from llava.prompting import build_prompt
from llava.serve.protocol.openai_replies import ReplyEncoder
from llava.serve.protocol.openai_requests import ChatRequest
from llava.serve.worker.openai_messages import dialogue_prompt, read_dialogue
from llava.text_generation.answer_events import Answer

LATER = SimpleNamespace(model_type="llava_llama", mm_vision_tower="tower", mm_use_im_patch_token=False)
V0 = SimpleNamespace(model_type="llava", mm_vision_tower="tower")
DATA = "data:image/png;base64,AAAA"


def request(*messages, **fields) -> ChatRequest:
    messages = messages or (user("Hello?"),)
    return ChatRequest.model_validate({"model": "llava", "messages": list(messages), **fields})


def user(*parts: str) -> dict:
    """A message of the user's; a part that is a data URI is an image."""
    if len(parts) == 1 and parts[0] != DATA:
        return {"role": "user", "content": parts[0]}
    return {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": part}} if part == DATA else {"type": "text", "text": part}
            for part in parts
        ],
    }


def said(role: str, text: str) -> dict:
    return {"role": role, "content": text}


def prompt(*messages, config=LATER, name="llava-v1.5") -> str:
    return dialogue_prompt(read_dialogue(request(*messages).messages), config, name=name).text


# What is taken


def test_fields_of_the_client_that_nobody_knows_are_ignored():
    asked = request(user="me", metadata={"a": 1}, store=False, parallel_tool_calls=True, service_tier="auto", foo=[1])
    assert asked.num_choices == 1


@pytest.mark.parametrize(
    "harmless",
    [
        {"tools": None},
        {"tools": []},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"logprobs": False},
        {"top_logprobs": 0},
        {"frequency_penalty": 0.0},
        {"presence_penalty": None},
        {"logit_bias": {}},
        {"repetition_penalty": 1.0},
    ],
)
def test_settings_that_change_nothing_are_no_reason_to_refuse(harmless):
    assert request(**harmless)


def test_both_names_of_the_token_limit_count_and_the_newer_one_wins():
    assert request().limit is None
    assert request(max_tokens=7).limit == 7
    assert request(max_tokens=7, max_completion_tokens=5).limit == 5


def test_a_stop_may_be_one_text_or_a_list():
    assert request(stop="###").stops == ("###",)
    assert request(stop=["a", "b"]).stops == ("a", "b")
    assert request(stop=None).stops == ()


# What is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("prediction", {"type": "content", "content": "x"}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"50256": -100}),
        ("response_format", {"type": "json_object"}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("repetition_penalty", 1.1),
        ("image_aspect_ratio", "pad"),
        ("web_search_options", {}),
    ],
)
def test_a_field_that_would_change_the_answer_is_refused_by_name(field, value):
    with pytest.raises(UnsupportedParameter, match=field) as refusal:
        request(**{field: value})
    assert (refusal.value.status, refusal.value.param) == (400, field)


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"role": "tool", "content": "4", "tool_call_id": "x"}, "messages[0].role"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "video_url"}]}, "messages[0].content[0]"),
    ],
)
def test_a_message_that_no_model_here_understands_is_refused_by_its_place(message, where):
    with pytest.raises(UnsupportedParameter) as refusal:
        request(message)
    assert refusal.value.param == where


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 9},
        {"n": 0},
        {"max_tokens": 0},
        {"temperature": 2.5},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"stop": ["x"] * 9},
        {"stop": "x" * 257},
        {"stop": ""},
        {"model": "a b"},
        {"model": "x" * 129},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "judge", "content": "x"}]},
    ],
)
def test_values_out_of_bounds_are_invalid(fields):
    with pytest.raises(ValidationError):
        request(**fields)


# Order of messages


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([said("system", "Be brief.")], "no user message"),
        ([user("a"), said("assistant", "b")], "last message is the assistant's"),
        ([user("a"), user("b")], r"messages\[1\].*alternate"),
        ([said("assistant", "a"), user("b")], r"messages\[0\].*expected 'user'"),
        ([user("a"), said("assistant", "b"), said("system", "c"), user("d")], r"messages\[2\].*system"),
        ([user("a"), said("assistant", ""), user("d")], r"messages\[1\].*empty"),
        ([{"role": "user", "content": []}], r"messages\[0\].*empty"),
        ([{"role": "system", "content": user(DATA)["content"]}, user("a")], r"messages\[0\].*text only"),
        (
            [user("a"), {"role": "assistant", "content": user(DATA)["content"]}, user("b")],
            r"messages\[1\].content\[0\]",
        ),
    ],
)
def test_a_conversation_out_of_order_is_refused_with_the_message_at_fault(messages, what):
    with pytest.raises(TemplateError, match=what):
        read_dialogue(request(*messages).messages)


def test_more_than_sixteen_images_are_too_many():
    with pytest.raises(InvalidRequest, match="17 images"):
        read_dialogue(request(user("What?", *[DATA] * 17)).messages)


# The checkpoint's own template


def test_one_question_reads_as_the_command_line_asks_it():
    asked = prompt(user("What is it?", DATA))
    assert asked == build_prompt(LATER, "What is it?", 1, name="llava-v1.5").text


def test_an_image_goes_before_the_question_in_later_checkpoints_and_behind_it_in_v0():
    assert "USER: <image>\nWhat is it? ASSISTANT:" in prompt(user("What is it?", DATA))
    assert prompt(user(DATA, "What is it?"), config=V0, name="llava").endswith(
        "###Human: What is it?\n<image>###Assistant:"
    )


def test_images_of_every_turn_stay_in_their_turn():
    asked = prompt(user("First?", DATA), said("assistant", "One."), user("And these?", DATA, DATA))
    assert asked.endswith("USER: <image>\nFirst? ASSISTANT: One.</s>USER: <image>\n<image>\nAnd these? ASSISTANT:")


def test_texts_and_images_that_take_turns_keep_their_order():
    asked = prompt(user("Left:", DATA, "Right:", DATA, "Which is older?"))
    assert "USER: Left:\n<image>\nRight:\n<image>\nWhich is older? ASSISTANT:" in asked


def test_a_system_message_takes_the_place_of_the_templates_own():
    asked = prompt(said("system", "You are a pirate."), said("developer", "Be brief."), user("Hello?"))
    assert asked == "You are a pirate.\nBe brief. USER: Hello? ASSISTANT:"


@pytest.mark.parametrize("name", sorted(set(conv_templates) - {"plain", "v0_plain"}))
def test_every_template_takes_a_system_message_images_and_several_turns(name):
    messages = (
        said("system", "You are a pirate."),
        user("First?", DATA),
        said("assistant", "One."),
        user("Second?", DATA),
    )
    config = SimpleNamespace(**vars(LATER), conv_mode=name)
    asked = dialogue_prompt(read_dialogue(request(*messages).messages), config)
    assert asked.text.count("<image>") == 2
    assert "You are a pirate." in asked.text
    assert asked.text.index("First?") < asked.text.index("One.") < asked.text.index("Second?")
    assert asked.stop == template(name).stop_str
    assert template(name).system not in asked.text or not template(name).system


def test_a_template_that_was_asked_for_goes_before_the_checkpoints_own():
    messages = read_dialogue(request({"role": "user", "content": "Hi"}).messages)
    own = dialogue_prompt(messages, LATER)
    asked = dialogue_prompt(messages, LATER, conv_mode="mistral_instruct")
    assert "[INST]" in asked.text
    assert "[INST]" not in own.text
    with pytest.raises(UnknownTemplate, match="mistral_instruct"):
        dialogue_prompt(messages, LATER, conv_mode="mistral_instruc")


def test_a_template_without_roles_cannot_chat():
    with pytest.raises(TemplateError, match="cannot chat"):
        dialogue_prompt(read_dialogue(request().messages), SimpleNamespace(**vars(LATER), conv_mode="plain"))


@pytest.mark.parametrize(
    "messages",
    [
        [user("Say <image> twice <image>", DATA)],
        [user("What does <image> mean in HTML?")],
        [user("a"), said("assistant", "see <image>"), user("b")],
        [user("Left:", DATA, "the <image>", DATA, "right")],
    ],
)
def test_a_text_cannot_bring_markers_of_its_own(messages):
    with pytest.raises(ImageTokenMismatch):
        prompt(*messages)


# Replies


def chunks(*parts: bytes) -> list:
    return [json.loads(line[6:]) for part in parts for line in part.decode().splitlines() if line.startswith("data: {")]


def test_a_reply_counts_the_prompt_once_and_all_that_was_written():
    reply = ReplyEncoder("llava").whole([Answer("a", "stop", 30, 4), Answer("b", "length", 30, 6)])
    assert reply.usage.model_dump() == {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}
    assert [(choice.index, choice.finish_reason) for choice in reply.choices] == [(0, "stop"), (1, "length")]


def test_all_chunks_of_a_reply_have_one_identity_and_the_parts_that_clients_need():
    reply = ReplyEncoder("lab/llava")
    made = chunks(
        reply.first(0), reply.text(0, "caf\u00e9\u2028"), reply.last(0, "stop"), reply.usage([Answer("", "stop", 3, 2)])
    )
    assert len({chunk["id"] for chunk in made}) == 1
    assert [chunk["object"] for chunk in made] == ["chat.completion.chunk"] * 4
    assert made[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert made[1]["choices"][0]["delta"] == {"content": "caf\u00e9\u2028"}
    assert (made[2]["choices"][0]["delta"], made[2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (made[3]["choices"], made[3]["usage"]["total_tokens"]) == ([], 5)
