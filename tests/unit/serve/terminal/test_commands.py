"""The commands of the terminal chat: what they do to a conversation, and what they say about bad input."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from llava.errors import LlavaError
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import Chat, Turn
from llava.serve.client.conversation_file import read_chat
from llava.serve.client.images import ChatImage
from llava.serve.terminal.commands import COMMANDS, CommandResult, as_command, run_command
from llava.serve.terminal.session import Session
from llava.text_generation.answer_events import AnswerEvents
from tests.support.images import encoded, noise


class Served:
    """A server that lists models; nothing here asks it for answers."""

    def __init__(self, *names: str):
        self._names = names

    async def models(self) -> Sequence[str]:
        return list(self._names)

    def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> AnswerEvents:
        raise AssertionError(f"{model} was asked for an answer; no command may ask for one")


def image(name: str) -> ChatImage:
    return ChatImage(encoded(noise(40, 20)), "image/png", name)


def talk() -> Chat:
    """Two questions with answers; three images."""
    return (
        Chat()
        .ask("What is it?", (image("cat.png"), image("dog.png")))
        .answered(Turn("assistant", "A cat and a dog.", model="llava"))
        .ask("And this?", (image("bird.png"),))
        .answered(Turn("assistant", "A bird.", model="llava"))
    )


@pytest.fixture
def session() -> Session:
    return Session(Served("llava", "other"), "llava", "http://localhost:1", chat=talk())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with an image of a name with a space, and a text that is called an image."""
    (tmp_path / "my cat.png").write_bytes(encoded(noise(40, 20)))
    (tmp_path / "dog.png").write_bytes(encoded(noise(30, 30)))
    (tmp_path / "note.jpg").write_text("I am no image.")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def do(session: Session, line: str) -> CommandResult:
    return asyncio.run(run_command(session, line))


def names(images: Sequence[ChatImage]) -> list[str]:
    return [one.name for one in images]


# Images


@pytest.mark.parametrize("line", ["/image my cat.png", "/image 'my cat.png'", r"/image my\ cat.png"])
def test_an_image_waits_for_the_next_question_and_goes_with_it(session, line):
    outcome = do(session, line)
    assert outcome.text == "Added my cat.png (40 × 20). It is sent with the next question."
    assert names(outcome.images) == names(session.waiting) == ["my cat.png"]
    session.ask("What now?")
    assert names(session.chat.turns[-1].images) == ["my cat.png"]
    assert session.waiting == ()


def test_several_images_are_added_by_one_command(session):
    assert "2 images are sent" in do(session, "/image dog.png 'my cat.png'").text
    assert names(session.waiting) == ["dog.png", "my cat.png"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/image", "no image given"),
        ("/image none.png", "none.png: no such file"),
        ("/image .", "folder"),
        ("/image note.jpg", "note.jpg: not an image .* looks like text"),
        ("/image dog.png none.png", "none.png: no such file"),
        ("/image http://127.0.0.1:9/x.png", "127.0.0.1"),
        ("/drop", "there are no images yet"),
        ("/drop two", "'two' is not the number"),
        ("/qit", "there is no command /qit. Did you mean /quit?"),
        (
            "/etc/passwd",
            "there is no command /etc/passwd. /help lists the commands. To ask it as",
        ),
        ("/set temperature=warm", "temperature cannot be 'warm'; expected a number from 0"),
        ("/set temperature=9", "temperature is 9.0; it must be between 0 and 2"),
        ("/set temperature=nan", "between 0 and 2"),
        ("/set top_p=0", "above 0"),
        ("/set max_tokens=0", "at least 1"),
        ("/set max_tokens=1e3", "max_tokens cannot be '1e3'; expected a whole number"),
        ("/set max_tokens=99999999", "at most 1000000"),
        ("/set seed=-1", "between 0"),
        ("/set shape=round", "crop or resize or pad"),
        ("/set temprature=1", "there is no setting 'temprature'. Did you mean temperature?"),
        ("/set colour=red", "Settings: temperature, top_p, max_tokens, seed, shape"),
        ("/model nobody", "no model named 'nobody' is served here. Available: llava, other"),
        ("/retry", "no question to answer yet"),
        ("/undo", "no question to remove yet"),
        ("/edit", "no question to edit yet"),
        ("/save", "the conversation is empty"),
        ("/load", "no file given"),
        ("/load note.jpg", "not JSON"),
        ("/load dog.png", "not UTF-8 text"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(session, line, says):
    session.begin(Chat())
    before = (session.chat, session.waiting, session.settings, session.model)
    with pytest.raises(LlavaError, match=says.replace("?", r"\?")) as caught:
        do(session, line)
    assert "\n" not in str(caught.value)
    assert (session.chat, session.waiting, session.settings, session.model) == before


def test_images_are_listed_with_the_questions_that_they_belong_to(session):
    do(session, "/image dog.png")
    assert [re.split(r"\s{2,}", line) for line in do(session, "/images").text.splitlines()] == [
        ["1", "cat.png (40 × 20)", "in question 1"],
        ["2", "dog.png (40 × 20)", "in question 1"],
        ["3", "bird.png (40 × 20)", "in question 2"],
        ["4", "dog.png (30 × 30)", "for the next question"],
    ]


@pytest.mark.parametrize(
    ("line", "sent", "waiting"),
    [
        ("/drop", ["cat.png", "dog.png", "bird.png"], ["dog.png"]),
        ("/drop 2", ["cat.png", "bird.png"], ["dog.png", "dog.png"]),
        ("/drop 3", ["cat.png", "dog.png"], ["dog.png", "dog.png"]),
        ("/drop all", ["cat.png", "dog.png", "bird.png"], []),
    ],
)
def test_an_image_is_dropped_by_its_number_wherever_it_is(session, line, sent, waiting):
    do(session, "/image dog.png dog.png")
    do(session, line)
    assert names(session.chat.images) == sent
    assert names(session.waiting) == waiting
    assert [turn.text for turn in session.chat.turns] == [turn.text for turn in talk().turns]


def test_a_question_that_is_an_image_alone_is_not_left_empty(session):
    session.begin(Chat().ask("", (image("cat.png"),)).answered(Turn("assistant", "A cat.")))
    with pytest.raises(LlavaError, match="/undo removes the whole question"):
        do(session, "/drop 1")


# The conversation


def test_retry_takes_the_last_answer_away_and_asks(session):
    assert do(session, "/retry").ask
    assert [turn.text for turn in session.chat.turns] == ["What is it?", "A cat and a dog.", "And this?"]


def test_undo_takes_back_the_last_question_with_answer_and_images(session):
    assert do(session, "/undo").text == "Removed question 2 and its 1 image."
    assert len(session.chat.turns) == 2
    do(session, "/undo")
    assert session.chat.turns == ()


def test_an_edited_question_keeps_its_images_gets_those_that_wait_and_drops_what_came_after(session):
    do(session, "/image dog.png")
    assert do(session, "/edit 1").prefill == "What is it?"
    session.ask("What are they?")
    (turn,) = session.chat.turns
    assert (turn.text, names(turn.images)) == ("What are they?", ["cat.png", "dog.png", "dog.png"])
    assert session.editing is None


def test_an_edit_that_leaves_nothing_leaves_the_conversation_as_it_was(session):
    session.begin(Chat().ask("What?").answered(Turn("assistant", "This.")))
    do(session, "/edit")
    with pytest.raises(LlavaError, match="empty"):
        session.ask("  ")
    assert len(session.chat.turns) == 2


def test_another_command_ends_an_edit(session):
    do(session, "/edit 1")
    do(session, "/set")
    session.ask("Next?")
    assert len(session.chat.turns) == 5


def test_the_system_prompt_is_set_shown_and_given_back(session):
    assert "Be brief." in do(session, "/system Be brief.").text
    assert session.chat.messages()[0] == {"role": "system", "content": "Be brief."}
    assert "Be brief." in do(session, "/system").text
    do(session, "/clear")
    assert (session.chat.turns, session.chat.system) == ((), "Be brief.")
    do(session, "/system -")
    assert session.chat.system == ""


@pytest.mark.parametrize(
    "line",
    [
        "/set temperature=0.7 max-new-tokens=9",
        "/set temperature = 0.7 max_tokens = 9",
        "/set TEMPERATURE=.7 max_tokens=9",
    ],
)
def test_settings_are_changed_together(session, line):
    do(session, line)
    assert (session.settings.temperature, session.settings.max_tokens) == (0.7, 9)


def test_settings_are_shown_with_what_they_may_be(session):
    do(session, "/set shape pad")
    do(session, "/set seed 4")
    text = do(session, "/set seed none").text
    assert re.search(r"shape +pad +crop or resize or pad", text)
    assert re.search(r"seed +none", text)


def test_one_wrong_setting_of_several_changes_none(session):
    with pytest.raises(LlavaError):
        do(session, "/set temperature=1 top_p=7")
    assert session.settings == AnswerSettings()


def test_models_are_listed_and_chosen(session):
    assert do(session, "/models").text == "* llava\n  other"
    do(session, "/model other")
    assert session.model == "other"


def test_a_server_without_a_model_is_told_how_to_get_one(session):
    session.source = Served()
    assert "python -m llava.serve.model_worker --controller http://localhost:1" in do(session, "/model").text


# Files


@pytest.mark.parametrize("name", ["talk.json", "talk.md", "a folder/talk.json"])
def test_a_saved_conversation_is_loaded_whole(session, name):
    do(session, f"/save {name}")
    do(session, "/clear")
    outcome = do(session, f"/load {name}")
    assert [turn.text for turn in outcome.conversation.turns] == [turn.text for turn in talk().turns]
    assert [one.data for one in session.chat.images] == [one.data for one in talk().images]


def test_save_without_a_name_writes_where_the_conversation_came_from(session, folder):
    do(session, "/save first.json")
    do(session, "/undo")
    do(session, "/save")
    assert len(json.loads((folder / "first.json").read_text())["messages"]) == 2


def test_save_without_any_name_makes_one_of_the_time(session, folder):
    do(session, "/save")
    (file,) = folder.glob("llava-chat-*.json")
    assert len(read_chat(file.read_bytes()).turns) == 4


def test_export_writes_markdown_and_leaves_the_name_of_save_alone(session, folder):
    do(session, "/export talk")
    assert (folder / "talk.md").read_text().startswith("<!-- llava-chat")
    assert session.file is None


def test_a_file_that_is_no_conversation_is_never_written_over(session, folder):
    before = (folder / "dog.png").read_bytes()
    with pytest.raises(LlavaError, match=r"dog\.png: the file exists and is not a conversation"):
        do(session, "/save dog.png")
    with pytest.raises(LlavaError, match="is a folder"):
        do(session, "/save .")
    assert (folder / "dog.png").read_bytes() == before


def test_a_path_that_cannot_be_written_is_named_and_nothing_is_lost(session, folder):
    with pytest.raises(OSError, match="exists") as caught:
        do(session, "/save dog.png/talk.json")
    assert str(caught.value.filename) == "dog.png"
    assert len(session.chat.turns) == 4


def test_a_broken_conversation_file_names_the_place_and_leaves_the_conversation(session, folder):
    (folder / "broken.json").write_text('{"messages": [{"role": "assistant", "content": "hi"}]}')
    with pytest.raises(LlavaError, match=r"broken.json: turn 1 has the role assistant"):
        do(session, "/load broken.json")
    assert len(session.chat.turns) == 4


# Lines


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("What is it?", None),
        (" /etc is a folder?", None),
        ("/images", "/images"),
        ("  ", None),
        ("!!regen", "!!regen"),
        ("!!exit", "!!exit"),
        ("!!! what", None),
        ("dog.png", None),
        ("'my cat.png'", "/image 'my cat.png'"),
        ("{folder}/dog.png", "/image {folder}/dog.png"),
        ("{folder}/my\\ cat.png ", "/image '{folder}/my cat.png'"),
        ("file://{folder}/my%20cat.png", "/image '{folder}/my cat.png'"),
        ("{folder}/dog.png what is it?", "{folder}/dog.png what is it?"),
    ],
)
def test_a_line_is_a_command_a_dropped_file_or_a_question(folder, line, command):
    expected = command.format(folder=folder) if command else None
    assert as_command(line.format(folder=folder)) == expected


def test_words_of_fastchat_and_the_originals_habits_work(session):
    assert do(session, "!!exit").leave
    assert do(session, "/exit").leave
    assert do(session, "!!regen").ask
    do(session, "!!reset")
    assert session.chat.turns == ()


def test_help_lists_every_command_with_its_argument(session):
    text = do(session, "/help").text
    for name, command in COMMANDS.items():
        assert re.search(rf"^/{name}\b.*{re.escape(command.summary)}$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100
