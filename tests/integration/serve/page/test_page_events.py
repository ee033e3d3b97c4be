"""The events of the web page without a browser: gradio's components, and a server that says what it is told to."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI

from llava.errors import InvalidRequest, WorkerLost
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import Chat
from llava.serve.client.images import ChatImage
from llava.serve.page import arena_tab
from llava.serve.page.arena_tab import ArenaTab, BattleState
from llava.serve.page.chat_tab import TabState
from llava.serve.page.closed_tabs import KEPT
from llava.serve.page.context import PageContext
from llava.serve.page.layout import build
from llava.serve.page.models import ServedModels
from llava.serve.page.rendering import shown
from llava.serve.page.settings import PageSettings
from llava.text_generation.answer_events import Answer, Piece
from tests.support.images import encoded, noise
from tests.support.serving import running, wait_until

CONTROLS = ("Crop", "", 0.2, 1.0, 64)
VISITOR: Any = SimpleNamespace(session_hash="tab", client=None)


class Source:
    """Models by name, each with the words that it answers; None for one whose worker is gone."""

    def __init__(self, **words: list[str] | None):
        self.words = words

    async def models(self) -> list[str]:
        return sorted(self.words)

    async def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> AsyncGenerator:
        words = self.words[model]
        if words is None:
            raise WorkerLost(f"the worker of model {model!r} cannot be reached.")
        for word in words:
            yield Piece(word, 1)
        yield Answer("".join(words), "stop", 5, len(words))


class Arena:
    """An arena, and what stands on it after each event."""

    def __init__(self, source: Source, *, anonymous: bool = True):
        self.context = PageContext(PageSettings("http://nowhere"), source, ServedModels(source))
        with gr.Blocks():
            self.tab = ArenaTab(self.context, gr.Textbox(), anonymous=anonymous)
        self.battle = BattleState()
        self.shown: dict[Any, Any] = {}

    def ask(self, text: str, *models: str) -> None:
        message = {"text": text, "files": []}
        self._follow(self.tab._asked(message, self.battle, self.context.run_id, VISITOR, *CONTROLS, *models))

    def regenerate(self, *models: str) -> None:
        self._follow(self.tab._asked_again(self.battle, self.context.run_id, VISITOR, *CONTROLS, *models))

    def _follow(self, updates: AsyncGenerator[dict[Any, Any], None]) -> None:
        async def read() -> None:
            async for update in updates:
                self.shown |= update

        asyncio.run(read())
        self.battle = self.shown.get(self.tab._battle, self.battle)

    @property
    def may_vote(self) -> bool:
        return all(self.shown[button]["interactive"] for button in self.tab._votes.values())

    @property
    def status(self) -> str:
        return self.shown[self.tab._status]["value"]

    def side(self, index: int) -> str:
        return str(self.shown[self.tab._chatbots[index]]["value"])


@pytest.fixture
def first_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lots are drawn in the order of the names."""
    monkeypatch.setattr(arena_tab.random, "sample", lambda names, count: list(names)[:count])


def test_after_both_have_answered_a_vote_is_possible(first_come):
    arena = Arena(Source(left=["A cat."], right=["A dog."]))
    arena.ask("What is it?")
    assert arena.may_vote
    assert arena.status == ""


def test_a_side_that_cannot_be_reached_is_said_and_others_are_drawn_in_its_place(first_come):
    arena = Arena(Source(dead=None, left=["A cat."], right=["A dog."]))
    arena.ask("What is it?")
    assert not arena.may_vote
    assert "did not answer" in arena.status
    assert "Regenerate asks other models" in arena.status
    arena.regenerate()
    assert arena.battle.models == ("left", "right")
    assert arena.may_vote
    assert arena.status == ""


def test_where_there_are_no_others_the_same_are_asked_again(first_come):
    source = Source(dead=None, left=["A cat."])
    arena = Arena(source)
    arena.ask("What is it?")
    source.words["dead"] = ["I am back."]
    arena.regenerate()
    assert arena.may_vote


def test_who_has_spoken_stays_when_a_later_answer_fails(first_come):
    source = Source(left=["A cat."], other=["A fish."], right=["A dog."])
    arena = Arena(source)
    arena.ask("What is it?")
    models = arena.battle.models
    source.words[models[0]] = None
    arena.ask("Sure?")
    assert not arena.may_vote
    arena.regenerate()
    assert arena.battle.models == models


def test_chosen_models_are_asked_again_as_chosen():
    arena = Arena(Source(dead=None, left=["A cat."], right=["A dog."]), anonymous=False)
    arena.ask("What is it?", "dead", "left")
    assert "Regenerate asks both again" in arena.status
    arena.regenerate("dead", "left")
    assert arena.battle.models == ("dead", "left")


def test_an_error_in_an_anonymous_arena_does_not_name_the_model(first_come):
    arena = Arena(Source(dead=None, left=["A cat."]))
    arena.ask("What is it?")
    assert "dead" not in arena.side(0)
    assert "The worker of model A cannot be reached." in arena.side(0)


def test_an_empty_answer_is_shown_as_one_and_may_be_voted_on(first_come):
    arena = Arena(Source(left=[], right=["A dog."]))
    arena.ask("What is it?")
    assert "empty answer" in arena.side(0)
    assert arena.may_vote


def test_closed_tabs_give_back_what_they_held_but_for_the_last_few_which_may_return(monkeypatch):
    monkeypatch.setenv("GRADIO_HEARTBEAT_INTERVAL", "0.1")  # only with a beat does gradio see that nobody listens
    source = Source(left=["A cat."])
    context = PageContext(PageSettings("http://nowhere"), source, ServedModels(source))
    page = build(context)
    [conversation] = [
        key for key, block in page.blocks.items() if isinstance(block, gr.State) and isinstance(block.value, TabState)
    ]
    images: list[weakref.ref] = []
    with running(gr.mount_gradio_app(FastAPI(), page, path="/")) as server:
        tabs = page.state_holder

        def come_and_go(tab: str) -> None:
            """Opens a tab, talks about an image, and closes it."""
            with httpx.stream("GET", f"{server.url}/gradio_api/heartbeat/{tab}") as heartbeat:
                beats = heartbeat.iter_lines()  # kept: without it, httpx takes the stream for read and closes it
                next(beats)
                image = ChatImage(encoded(noise(8, 8)), "image/png", tab)
                images.append(weakref.ref(image))
                chat = Chat().ask("What is it?", (image,))
                shown(chat)
                tabs[tab][conversation] = TabState(chat)
            wait_until(lambda: tab in context.closed_tabs)

        for number in range(KEPT + 6):
            come_and_go(f"tab {number}")
            if number == 0:
                context.closed_tabs.seen("tab 0")  # it is back, and stays
        gc.collect()
        assert len(tabs.session_data) == KEPT + 1
        assert [image() is not None for image in images] == [True] + [False] * 5 + [True] * KEPT
        assert not tabs["tab 0"].is_closed

        context.closed_tabs.check("tab 0")
        with pytest.raises(InvalidRequest, match="Reload the page"):
            context.closed_tabs.check("tab 1")
