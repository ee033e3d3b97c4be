"""The terminal chat with its real prompt and view, against servers on loopback and an engine in this process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from llava.errors import InvalidRequest, ModelNotFound, RemoteError
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.chat_server import ChatServer
from llava.serve.client.conversation import Chat, ChatSource
from llava.serve.terminal.completion import ChatCompleter
from llava.serve.terminal.conversation_loop import ConversationLoop
from llava.serve.terminal.model_source import LocalModelSource, choose_model
from llava.serve.terminal.prompt import InputPrompt
from llava.serve.terminal.session import Session
from llava.serve.terminal.view import View
from tests.support.fake_backend import FakeEngine, Plan, fake_backend
from tests.support.fake_openai_server import FakeOpenAiServer
from tests.support.serving import REPOSITORY, InThread, running, wait_until

IMAGE = REPOSITORY / "tests" / "data" / "images" / "land.png"
SLOW = (" word",) * 2000


@pytest.fixture
def served() -> Iterator[tuple[FakeOpenAiServer, str]]:
    fake = FakeOpenAiServer()
    with InThread(fake.app()) as server:
        yield fake, server.url


def chat(source: ChatSource, lines: str, *, model: str = "engine-model", **begin: object) -> tuple[Session, str]:
    """Types all lines, then /quit; returns the session at its end, and the text on the screen."""
    session = Session(source, model, **begin)
    console = Console(file=io.StringIO(), width=200, height=40)
    with create_pipe_input() as keyboard:
        prompt = InputPrompt(
            completer=ChatCompleter(list),
            history=InMemoryHistory(),
            toolbar=lambda: "",
            keyboard=keyboard,
            screen=DummyOutput(),
        )
        keys = lines.removesuffix("\n").replace("\n", "\r") + "\r/quit\r"
        keyboard.send_bytes(keys.encode("utf-8", "surrogateescape"))
        asyncio.run(ConversationLoop(session, prompt, View(console)).run())
    return session, console.file.getvalue()


@contextlib.contextmanager
def ctrl_c_when(condition: Callable[[], object]) -> Iterator[None]:
    """Presses it as soon as the condition holds."""

    def press() -> None:
        wait_until(condition)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    yield
    pressing.join()


def pasted(text: str) -> str:
    """As a terminal sends what is pasted."""
    return f"\x1b[200~{text}\x1b[201~"


def texts(session: Session) -> list[str]:
    return [turn.text for turn in session.chat.turns]


def test_a_conversation_with_an_image_is_asked_whole_and_its_answers_are_shown(served):
    fake, url = served
    session, screen = chat(ChatServer(url), f"/image {IMAGE}\nWhat is it?\n/set temperature=0 seed=5\nSure?\n")
    assert texts(session) == ["What is it?", "An engine answers.", "Sure?", "An engine answers."]
    first, second = fake.bodies
    assert [part["type"] for part in first["messages"][0]["content"]] == ["image_url", "text"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert (second["temperature"], second["seed"]) == (0.0, 5)
    assert screen.count("An engine answers.") == 2
    assert "11 + 3 tokens" in screen


def test_empty_lines_ask_nothing_unless_an_image_waits(served):
    session, _ = chat(ChatServer(served[1]), f"\n   \n/image {IMAGE}\n\n")
    assert texts(session) == ["", "An engine answers."]
    assert len(served[0].bodies) == 1


def test_retry_and_edit_ask_again(served):
    fake, url = served
    session, _ = chat(ChatServer(url), f"/image {IMAGE}\nWhat is it?\n/retry\n/edit\n Really?\n")
    assert texts(session) == ["What is it? Really?", "An engine answers."]
    assert [body["messages"][0]["content"][1]["text"] for body in fake.bodies] == [
        "What is it?",
        "What is it?",
        "What is it? Really?",
    ]


@pytest.mark.parametrize("keys", ["\x03", "\x15\n"], ids=["Ctrl-C", "emptied"])
def test_an_edit_that_is_given_up_leaves_the_question_as_it_was(served, keys):
    session, screen = chat(ChatServer(served[1]), f"What?\n/edit\n{keys}")
    assert texts(session) == ["What?", "An engine answers."]
    assert "The question was not changed." in screen


def test_ctrl_c_stops_the_answer_at_the_server_and_keeps_what_was_written(served):
    fake, url = served
    fake.words, fake.pace_s = SLOW, 0.02
    with ctrl_c_when(lambda: fake.written >= 5):
        session, screen = chat(ChatServer(url), "Go on\n/images\n")
    wait_until(lambda: fake.cancelled == 1)
    assert fake.written < 1000
    assert "Stopped." in screen
    assert "There are no images yet" in screen, "the chat goes on"
    assert session.chat.turns[1].text.startswith(" word word")
    assert session.chat.turns[1].statistics.finish_reason is None


def test_ctrl_c_stops_an_engine_in_this_process():
    engine = FakeEngine(plan=lambda request: Plan(words=SLOW, pace_s=0.02))
    source = LocalModelSource(fake_backend(engine, warms_up=False))

    async def start() -> None:
        await source.start()

    asyncio.run(start())
    with ctrl_c_when(lambda: engine.steps >= 5):
        session, screen = chat(source, "Go on", model="llava-fake")
    assert "Stopped." in screen
    assert engine.cancelled == 1
    assert engine.steps_after_close <= 1
    assert session.chat.turns[1].text.startswith(" word")


def test_ctrl_c_before_the_first_word_can_be_followed_by_retry(served):
    fake, url = served
    fake.pace_s = 30
    fake.words = ("", "late")
    with ctrl_c_when(lambda: fake.running):
        session, _ = chat(ChatServer(url), "What?")
    assert texts(session) == ["What?", ""]
    fake.words, fake.pace_s = ("Now.",), 0
    session, _ = chat(ChatServer(url), "/retry", chat=session.chat)
    assert texts(session) == ["What?", "Now."]


def test_a_server_that_breaks_off_leaves_the_partial_answer_a_sentence_and_retry(served):
    fake, url = served
    fake.breaks_off_after = 2
    session, screen = chat(ChatServer(url), "What?")
    assert texts(session) == ["What?", "An engine"]
    assert "An engine" in screen
    assert f"{url} broke off in the middle of its answer." in screen
    assert "/retry asks again." in screen
    fake.breaks_off_after = None
    assert texts(chat(ChatServer(url), "/retry", chat=session.chat)[0]) == ["What?", "An engine answers."]


def test_a_server_that_is_away_keeps_the_question_for_retry(served):
    session, screen = chat(ChatServer("http://127.0.0.1:9"), f"/image {IMAGE}\nWhat?")
    assert "http://127.0.0.1:9 cannot be reached. Check the address, and that the service is running." in screen
    session, _ = chat(ChatServer(served[1]), "/retry", chat=session.chat)
    assert texts(session) == ["What?", "An engine answers."]
    assert len(session.chat.images) == 1


def test_a_question_that_is_too_long_is_taken_back_so_that_the_next_one_is_asked_without_it():
    source = LocalModelSource(fake_backend(FakeEngine(context_length=1024), warms_up=False))
    asyncio.run(source.start())
    long = pasted("long " * 4000)
    session, screen = chat(source, f"/image {IMAGE}\n{long}\n/images\nShort?\n{long}\n", model="llava-fake")
    assert texts(session) == ["Short?", "A cat sits on a mat."]
    assert len(session.chat.images) == 1
    assert "for the next question" in screen
    assert "the model's context is 1024. Shorten the question or use fewer images." in screen
    first, second = screen.split("The question was not added")[1:]
    assert "/clear" not in first.split("\n")[0]
    assert "/clear" in second.split("\n")[0]


def test_an_answer_that_was_cut_says_by_what():
    engine = FakeEngine(plan=lambda request: Plan(words=SLOW))
    source = LocalModelSource(fake_backend(engine, warms_up=False))
    asyncio.run(source.start())
    settings = AnswerSettings(max_tokens=3)
    _, screen = chat(source, "Go on", model="llava-fake", settings=settings)
    assert "The answer was cut at 3 tokens. /set max_tokens=6 and then /retry" in screen


def test_a_worker_that_comes_later_is_found_by_the_next_question(served):
    url = served[1]

    class Empty(ChatServer):
        async def models(self) -> list[str]:
            return []

    session, screen = chat(Empty(url), "What?", model="", address=url)
    assert "No model is being served yet. Start one with" in screen
    session, _ = chat(ChatServer(url), "/retry", model="", address=url, chat=session.chat)
    assert (session.model, texts(session)) == ("engine-model", ["What?", "An engine answers."])


def test_bad_lines_are_answered_and_the_chat_goes_on(served, tmp_path: Path):
    (tmp_path / "note.jpg").write_text("I am no image.")
    lines = f"/image none.png\n/image {tmp_path}/note.jpg\n/nonsense\n/load none\nHi\n/save /proc/nothing/talk.json\n"
    session, screen = chat(ChatServer(served[1]), lines)
    said = ("none.png: no such file", "note.jpg: not an image", "no command /nonsense", "none: No", "/proc/nothing: ")
    for part in said:
        assert part in screen
    assert texts(session) == ["Hi", "An engine answers."]


def test_half_characters_in_what_was_pasted_or_answered_are_replaced_so_that_all_can_be_saved(tmp_path: Path):
    source = LocalModelSource(fake_backend(FakeEngine(plan=lambda request: Plan(words=("b\ud83d",))), warms_up=False))
    asyncio.run(source.start())
    session, _ = chat(source, f"a\udcff?\n/save {tmp_path}/talk.json\n", model="llava-fake")
    assert texts(session) == ["a\ufffd?", "b\ufffd"]
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert [message["content"] for message in saved["messages"]] == texts(session)


# Which model


def test_a_model_is_chosen_by_name_or_the_first_is_taken(served):
    async def chosen(wanted: str | None) -> str:
        return (await choose_model(ChatServer(served[1]), wanted))[0]

    assert asyncio.run(chosen(None)) == asyncio.run(chosen("engine-model")) == "engine-model"
    with pytest.raises(ModelNotFound, match="Available: engine-model"):
        asyncio.run(chosen("other"))


def test_a_server_that_lists_no_models_is_asked_for_the_one_that_was_named(served):
    from fastapi import FastAPI

    async def chosen(url: str, wanted: str | None) -> str:
        return (await choose_model(ChatServer(url), wanted))[0]

    with running(FastAPI()) as server:
        assert asyncio.run(chosen(server.url, "gpt")) == "gpt"
        with pytest.raises(RemoteError, match="OpenAI-compatible"):
            asyncio.run(chosen(server.url, None))


def test_a_request_that_the_engine_would_refuse_is_a_typed_error():
    source = LocalModelSource(fake_backend(FakeEngine(), warms_up=False))

    async def ask() -> None:
        await source.start()
        async for _ in source.answer(Chat().ask("What?"), "m", AnswerSettings(temperature=7)):
            pass

    with pytest.raises(InvalidRequest, match="temperature"):
        asyncio.run(ask())
