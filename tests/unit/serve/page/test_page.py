"""The parts of the web page that need neither a browser nor gradio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from llava.errors import InvalidRequest, WorkerLost
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import AnswerStatistics, Chat, Turn
from llava.serve.client.images import ChatImage
from llava.serve.page.accounts import Accounts
from llava.serve.page.log import ConversationLog, LogFailed, Sender
from llava.serve.page.models import ModelListing, ServedModels, choose, notice
from llava.serve.page.rendering import as_typed, literal, shown, turn_at
from llava.serve.page.streaming import growing, growing_together
from llava.text_generation.answer_events import Answer, Piece
from tests.support.images import encoded, noise

IMAGE = ChatImage(encoded(noise(40, 20)), "image/png", 'a "cat".png')
CHAT = (
    Chat()
    .ask("What is it?", (IMAGE, IMAGE))
    .answered(Turn("assistant", "A cat.", model="m", statistics=AnswerStatistics("stop", 10, 3, 0.1, 0.2)))
    .ask("Sure?")
    .answered(Turn("assistant", "Ye", model="m", error="worker <b> went away."))
)


class Source:
    """A server that says what it is told to; counts how often it is asked for its models."""

    def __init__(self, *words: str, models: list[str] | None = None, error: Exception | None = None):
        self.words, self.names, self.error = words, models or [], error
        self.num_asked = 0
        self.closed = False

    async def models(self) -> list[str]:
        self.num_asked += 1
        if self.error:
            raise self.error
        return self.names

    async def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> AsyncGenerator:
        try:
            for word in self.words:
                await asyncio.sleep(0)
                yield Piece(word, 1)
            if self.error:
                raise self.error
            yield Answer("".join(self.words), "stop", 5, len(self.words))
        finally:
            self.closed = True


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "<script>alert(1)</script>",
        "`<b>` and ```\n<div>\n``` and <i>",
        "x <",
        "no tags",
        "```\n<never closed>",
    ],
)
def test_markup_is_shown_as_written_and_read_back_as_typed(text):
    assert as_typed(literal(text)) == text


def test_only_tags_outside_of_code_are_escaped():
    assert literal("<b>x</b> `<b>` 1 < 2") == r"\<b>x\</b> `<b>` 1 < 2"


def test_messages_lead_back_to_their_turns():
    places = [turn_at(CHAT, index) for index in range(len(shown(CHAT)))]
    assert places == [0, 0, 1, 1, 2, 3, 3]
    assert turn_at(CHAT, (4, 0)) == 2


def test_names_and_errors_cannot_carry_markup():
    contents = [message["content"] for message in shown(CHAT)]
    assert 'alt="a &quot;cat&quot;.png"' in contents[0]["value"]
    assert "Worker &lt;b&gt; went away." in contents[-1]["value"]


def test_an_answer_grows_and_ends_with_its_figures():
    async def read() -> list[Chat]:
        return [chat async for chat in growing(Source("A ", "cat."), Chat().ask("?"), "m", AnswerSettings())]

    chats = asyncio.run(read())
    assert chats[0].turns[-1].text == "A "
    assert chats[-1].turns[-1].text == "A cat."
    assert chats[-1].turns[-1].statistics.new_tokens == 2


def test_an_answer_that_breaks_off_keeps_its_text_and_says_why():
    async def read() -> Chat:
        source = Source("Half", error=WorkerLost("gone. Ask again."))
        return [chat async for chat in growing(source, Chat().ask("?"), "m", AnswerSettings())][-1]

    turn = asyncio.run(read()).turns[-1]
    assert (turn.text, turn.error) == ("Half", "gone. Ask again.")


def test_two_answers_grow_together_and_one_that_fails_does_not_end_the_other():
    async def read() -> list:
        sources = [Source("left"), Source(error=WorkerLost("gone."))]
        both = [growing(source, Chat().ask("?"), "m", AnswerSettings()) for source in sources]
        return [newest async for newest in growing_together(both)][-1]

    left, right = asyncio.run(read())
    assert left.turns[-1].text == "left"
    assert right.turns[-1].error == "gone."


def test_closing_two_answers_closes_both():
    sources = [Source(*["word"] * 10_000), Source(*["word"] * 10_000)]

    async def read_one() -> None:
        both = [growing(source, Chat().ask("?"), "m", AnswerSettings()) for source in sources]
        together = growing_together(both)
        await anext(together)
        await together.aclose()

    asyncio.run(read_one())
    assert [source.closed for source in sources] == [True, True]


def test_many_pages_ask_the_controller_once():
    source = Source(models=["b", "a"])

    async def ask() -> list[ModelListing]:
        models = ServedModels(source)
        return list(await asyncio.gather(*(models.now() for _ in range(20))))

    assert set(asyncio.run(ask())) == {ModelListing(("b", "a"))}
    assert source.num_asked == 1


def test_a_controller_that_is_away_leaves_the_last_list_and_its_sentence():
    source = Source(models=["a"])

    async def ask() -> ModelListing:
        models = ServedModels(source)
        await models.now()
        source.error = WorkerLost("http://x cannot be reached.")
        return await models.now(fresh=True)

    served = asyncio.run(ask())
    assert served == ModelListing(("a",), "http://x cannot be reached.")
    assert "llava.serve.controller" in notice(served, "http://x")


def test_what_is_missing_is_said_with_its_command():
    assert "--controller http://x" in notice(ModelListing(), "http://x")
    assert notice(ModelListing(("a",)), "http://x") == ""


@pytest.mark.parametrize(
    ("names", "wanted", "model", "says"),
    [
        (("a", "b"), "b", "b", ""),
        (("a", "b"), None, "a", ""),
        (("a", "b"), "c", "a", "Available: a, b."),
        ((), "c", None, ""),
    ],
)
def test_the_model_of_the_address_is_chosen_if_it_is_there(names, wanted, model, says):
    chosen, problem = choose(ModelListing(names), wanted)
    assert chosen == model
    assert says in problem


def test_addresses_stand_in_the_log_only_where_they_were_asked_for(tmp_path):
    for with_addresses, expected in ((False, ""), (True, "10.0.0.9")):
        folder = tmp_path / str(with_addresses)
        ConversationLog(folder, with_addresses=with_addresses).vote("flag", CHAT, "m", Sender("id", "10.0.0.9"))
        (file,) = folder.glob("*-conv.json")
        assert json.loads(file.read_text())["ip"] == expected


# In /proc nobody makes a file or a folder, not even root.
@pytest.mark.parametrize("folder", ["/proc", "/proc/log"], ids=["takes no files", "cannot be made"])
def test_a_log_folder_that_cannot_be_written_is_refused_at_the_start(folder):
    with pytest.raises(InvalidRequest, match=f"--log-dir {folder}: cannot be written"):
        ConversationLog(Path(folder))


def test_a_file_in_the_place_of_the_log_folder_is_refused_at_the_start(tmp_path):
    (tmp_path / "log").write_text("")
    with pytest.raises(InvalidRequest, match="--log-dir"):
        ConversationLog(tmp_path / "log")


def test_a_log_that_cannot_be_written_later_is_an_error_of_its_own(tmp_path):
    log = ConversationLog(tmp_path)
    (tmp_path / "serve_images").write_text("in the way")
    with pytest.raises(LogFailed, match="could not be stored"):
        log.chat(CHAT, "m", Sender("id"), start=1.0, finish=2.0)


def test_accounts_know_who_belongs(tmp_path):
    file = tmp_path / "users"
    file.write_text("# the lab\nann:pass:word\n\nbob:b\n")
    accounts = Accounts.from_settings(["eve:e"], str(file))
    assert accounts is not None
    assert all(accounts.check(*pair) for pair in (("ann", "pass:word"), ("bob", "b"), ("eve", "e")))
    assert not any(accounts.check(*pair) for pair in (("ann", "pass"), ("bob", ""), ("nobody", ""), ("nobody", "\0")))
    assert Accounts.from_settings([], None) is None


@pytest.mark.parametrize(
    ("entries", "lines"), [(["ann"], None), ([":x"], None), (["ann:"], None), ([], "ann\n"), ([], "")]
)
def test_an_account_without_user_or_password_is_refused_without_showing_it(tmp_path, entries, lines):
    file = None
    if lines is not None:
        file = str(tmp_path / "users")
        (tmp_path / "users").write_text(lines)
    with pytest.raises(InvalidRequest) as caught:
        Accounts.from_settings(entries, file)
    assert "ann" not in str(caught.value)
