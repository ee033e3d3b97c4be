"""Conversations of the front ends: what is asked, what a user may do to them, and their files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.errors import DataError, InvalidRequest, UnsupportedImage
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import AnswerStatistics, Chat, Turn
from llava.serve.client.conversation_file import from_json, read_chat, to_json, to_markdown
from llava.serve.client.images import MAX_BYTES, ChatImage, read_image, shaped
from llava.serve.protocol.openai_requests import ChatRequest
from llava.serve.worker.openai_messages import read_dialogue
from tests.support.images import encoded, noise


def image(width: int = 40, height: int = 20, name: str = "cat.png") -> ChatImage:
    return ChatImage(encoded(noise(width, height)), "image/png", name)


def answer(text: str, **fields: object) -> Turn:
    return Turn("assistant", text, **fields)


TALK = (
    Chat(system="Be brief.")
    .ask("What is it?", (image(), image(name="dog [2].png")))
    .answered(
        answer(
            "A **cat**.\n\n<!-- no --> and `a | b`",
            model="llava-7b",
            statistics=AnswerStatistics("stop", 60, 4, 0.5, 1.5),
        )
    )
    .ask("Sure?\n\nReally?")
    .answered(answer("Ye", model="llava-13b", error="The worker went away. Ask again."))
)


def test_a_request_is_one_that_our_servers_take_with_images_before_the_text():
    body = TALK.ask("And now?", (image(),)).request("llava-7b", AnswerSettings(temperature=0, seed=3))
    dialogue = read_dialogue(ChatRequest.model_validate(body).messages)
    assert dialogue.system == "Be brief."
    assert [turn.role for turn in dialogue.turns] == ["user", "assistant", "user", "assistant", "user"]
    assert [len(turn.images) for turn in dialogue.turns] == [2, 0, 0, 0, 1]
    assert dialogue.turns[0].parts[-1] == "What is it?"
    assert body["seed"] == 3


def test_a_question_that_got_no_answer_is_asked_with_the_next_one():
    chat = Chat().ask("First", (image(),)).answered(answer("", error="queue full")).ask("Second")
    (turn,) = read_dialogue(ChatRequest.model_validate(chat.request("m", AnswerSettings())).messages).turns
    assert [part for part in turn.parts if isinstance(part, str)] == ["First", "Second"]
    assert len(turn.images) == 1


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_an_empty_message_is_refused_unless_it_has_an_image(text):
    with pytest.raises(InvalidRequest, match="empty"):
        Chat().ask(text)
    assert len(Chat().ask(text, (image(),)).turns) == 1


def test_more_images_than_a_request_may_have_are_refused_before_they_are_sent():
    chat = Chat().ask("a", (image(),) * 16)
    with pytest.raises(InvalidRequest, match="17 images; the limit is 16"):
        chat.answered(answer("b")).ask("c", (image(),))


def test_an_edited_question_keeps_its_images_and_drops_what_came_after():
    edited = TALK.edited(0, "What else?")
    assert [turn.text for turn in edited.turns] == ["What else?"]
    assert len(edited.images) == 2


@pytest.mark.parametrize("write", [to_json, to_markdown])
def test_an_exported_conversation_reads_back_whole(write):
    read = read_chat(write(TALK).encode())
    assert [(turn.role, turn.text, turn.error, turn.model) for turn in read.turns] == [
        (turn.role, turn.text, turn.error, turn.model) for turn in TALK.turns
    ]
    assert [one.data for one in read.images] == [one.data for one in TALK.images]
    assert read.system == TALK.system


def test_json_keeps_figures_and_is_a_request_of_the_openai_protocol():
    document = json.loads(to_json(TALK.ask("Next?")))
    read_dialogue(ChatRequest.model_validate(document).messages)
    assert from_json(to_json(TALK)).turns[1].statistics == TALK.turns[1].statistics


def test_markdown_with_the_marks_of_another_file_in_its_text_reads_back():
    text = to_markdown(TALK)
    nested = Chat().ask(text).answered(answer(text))
    assert read_chat(to_markdown(nested).encode()).turns[1].text == text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"[1, 2]", "with `messages`"),
        (b'{"messages": [{"role": "tool", "content": ""}]}', r"messages\[0\]: the role is 'tool'"),
        (b'{"messages": [{"role": "assistant", "content": "hi"}]}', "turn 1 has the role assistant"),
        (b'{"messages": [{"role": "user", "content": [{"type": "audio"}]}]}', r"messages\[0\]\.content\[0\]"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://a/b.png"}]}]}',
            "not in the file",
        ),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:;base64,aGk="}]}]}',
            "not an image",
        ),
        (b'{"format": "llava-chat", "version": 9, "messages": []}', "version 9"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
        (to_markdown(TALK).encode()[:-20], "the end of the file is missing"),
        (b"<!-- something else -->\n", "not a saved conversation"),
    ],
)
def test_a_file_that_is_no_conversation_is_refused_with_the_place(data, says):
    with pytest.raises(DataError, match=says):
        read_chat(data, name="talk.json")


def test_an_image_that_travels_well_keeps_its_own_bytes(tmp_path: Path):
    file = tmp_path / "small.png"
    file.write_bytes(encoded(noise(30, 20)))
    assert read_image(file) == ChatImage(file.read_bytes(), "image/png", "small.png")


def test_a_kind_that_services_do_not_take_is_sent_as_png_without_loss(tmp_path: Path):
    noise().save(tmp_path / "scan.tiff")
    sent = read_image(tmp_path / "scan.tiff")
    assert sent.media_type == "image/png"
    assert np.array_equal(np.asarray(sent.decode()), np.asarray(noise()))


def test_a_heavy_photograph_is_sent_smaller_so_that_sixteen_fit_into_a_request():
    sent = read_image(encoded(noise(2500, 1500)), name="beach.png")
    assert len(sent.data) <= MAX_BYTES
    assert 1.6 < sent.decode().width / sent.decode().height < 1.7


def test_a_text_file_called_jpg_is_refused_by_its_content(tmp_path: Path):
    (tmp_path / "note.jpg").write_text("hello, I am no image at all")
    with pytest.raises(UnsupportedImage, match=r"note\.jpg.*looks like text"):
        read_image(tmp_path / "note.jpg")


def test_shapes_make_squares_of_what_is_none():
    wide = ChatImage(encoded(Image.new("RGB", (40, 20), (200, 200, 200))), "image/png", "wide.png")
    assert shaped(wide, "Crop") is wide
    squeezed, padded = shaped(wide, "Resize").decode(), shaped(wide, "Pad").decode()
    assert squeezed.size == padded.size == (40, 40)
    assert squeezed.getpixel((20, 1)) == (200, 200, 200)
    assert padded.getpixel((20, 1)) == (122, 116, 104)
