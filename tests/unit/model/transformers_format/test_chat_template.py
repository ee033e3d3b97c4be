"""The Jinja text of every template renders what our own renderer does."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.errors import InvalidRequest
from llava.model.transformers_format.chat_template import chat_template
from llava.templates.of_folder import folder_template
from tests.support.chat_templates import DATED, PARTS

# mmtag tells the model of its images in a turn of its own, which messages with images cannot say.
OURS = {name: each for name, each in conv_templates.items() if each.sep_style is not SeparatorStyle.PLAIN}
TEMPLATES = {
    **{name: each for name, each in OURS.items() if "mmtag" not in name},
    "a folder's own": folder_template(DATED),
    "a folder's own, of parts": folder_template(PARTS),
}
DIALOGUES = list(TEMPLATES)


def render(conversation: Conversation, messages: list[dict], *, opened: bool = True) -> str:
    jinja = chat_template(conversation, image="<image>", bos="")
    return render_jinja_template([messages], chat_template=jinja, add_generation_prompt=opened)[0][0]


def user(text: str, images: int = 0, *, image_type: str = "image") -> dict:
    return {"role": "user", "content": [*[{"type": image_type}] * images, {"type": "text", "text": text}]}


def with_images(conversation: Conversation, text: str, images: int) -> str:
    return "<image>\n" * images + text if conversation.image_first else text + "\n<image>" * images


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("name", DIALOGUES)
def test_one_question(name, images, opened):
    conversation = TEMPLATES[name].copy()
    question = 'What is "it"?\n{{ 7 * 7 }} {% if x %}'
    messages = [user(question, images)]
    conversation.append_message(conversation.roles[0], with_images(conversation, question, images))
    if opened:
        conversation.append_message(conversation.roles[1], None)
    assert render(TEMPLATES[name], messages, opened=opened) == conversation.get_prompt()


@pytest.mark.parametrize("name", DIALOGUES)
def test_several_turns(name):
    conversation = TEMPLATES[name].copy()
    first, second = conversation.roles
    for role, text in (
        (first, with_images(conversation, "What?", 1)),
        (second, "A cat."),
        (first, "Sure?"),
        (second, None),
    ):
        conversation.append_message(role, text)
    messages = [user("What?", 1, image_type="image_url"), {"role": "assistant", "content": "A cat."}, user("Sure?")]
    assert render(TEMPLATES[name], messages) == conversation.get_prompt()


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_system_message_takes_the_place_of_the_template_s_own(name):
    conversation = TEMPLATES[name].copy()
    conversation.system = "Speak like a pirate."
    conversation.append_message(conversation.roles[0], "Hi")
    conversation.append_message(conversation.roles[1], None)
    system = {"role": "system", "content": "Speak like a pirate."}
    rendered = render(TEMPLATES[name], [system, user("Hi")])
    if conversation.sep_style is SeparatorStyle.MPT:
        # ChatML's system text carries its own mark of who speaks.
        assert "Speak like a pirate." in rendered
    else:
        assert rendered == conversation.get_prompt()


def test_the_first_token_is_written_once():
    jinja = chat_template(conv_templates["llava_v1"], image="<image>", bos="<s>")
    text = render_jinja_template([[user("Hi")]], chat_template=jinja, add_generation_prompt=True)[0][0]
    assert text.startswith("<s>A chat")
    assert text.count("<s>") == 1


def test_captions_are_no_dialogue():
    with pytest.raises(InvalidRequest, match="'plain' has no turns"):
        chat_template(conv_templates["plain"], image="<image>", bos="")
