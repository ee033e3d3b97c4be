"""A flattened prompt read back into turns says what was flattened."""

from __future__ import annotations

import pytest

from llava.conversation import conv_templates, template
from llava.serve.worker.openai_messages import ImageSource
from llava.serve.worker.prompt_reader import read_prompt

IMAGES = [ImageSource("one", "images[0]"), ImageSource("two", "images[1]")]
TEMPLATES = sorted(set(conv_templates) - {"plain", "v0_plain"})


def flattened(name: str, *texts: str | None) -> str:
    conversation = template(name)
    for index, text in enumerate(texts):
        conversation.append_message(conversation.roles[index % 2], text)
    return conversation.get_prompt()


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_templates_prompt_is_read_back_into_its_turns(name):
    reading = read_prompt(flattened(name, "What is it?\n<image>", "A cat: mine.", "<image>\nAnd it?", None), IMAGES)
    shots = template(name).offset
    turns = [(turn.role, turn.parts) for turn in reading.dialogue.turns[shots:]]
    assert turns == [
        ("user", ("What is it?", IMAGES[0])),
        ("assistant", ("A cat: mine.",)),
        ("user", (IMAGES[1], "And it?")),
    ]
    assert len(reading.dialogue.turns) == shots + 3
    assert reading.stop == template(name).stop_str
    system = template(name).system.removeprefix("<|im_start|>system\n").strip()
    assert (reading.dialogue.system or "") == system


@pytest.mark.parametrize("name", ["v0_mmtag", "v1_mmtag"])
def test_the_tags_that_some_templates_put_around_an_image_are_not_part_of_a_turn(name):
    conversation = template(name)
    conversation.append_message(conversation.roles[0], ("What is it?\n<image>", "image", "Crop"))
    conversation.append_message(conversation.roles[1], None)
    turns = read_prompt(conversation.get_prompt(), IMAGES[:1]).dialogue.turns
    assert [turn.parts for turn in turns] == [(IMAGES[0],), ("Received.",), ("What is it?",)]


@pytest.mark.parametrize(
    "prompt",
    [
        "Just a question about <image> and no template",
        "<image>\nASSISTANT:",
        "USER: an unfinished <image> answer ASSISTANT: It is",
        "A chat. USER: a ASSISTANT: sees <image> too</s>USER: b ASSISTANT:",
    ],
)
def test_what_no_template_made_is_one_message_of_the_user(prompt):
    dialogue = read_prompt(prompt, IMAGES[:1]).dialogue
    assert (dialogue.system, len(dialogue.turns), dialogue.turns[0].role) == (None, 1, "user")
    assert dialogue.images == IMAGES[:1]
    text = "".join(part for part in dialogue.turns[0].parts if isinstance(part, str))
    assert text.split() == prompt.replace("<image>", " ").split()
