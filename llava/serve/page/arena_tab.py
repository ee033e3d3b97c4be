"""The arena: the same image and question to two models side by side, and a vote for the better answer."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr

from llava.errors import InvalidRequest, LlavaError
from llava.serve.arena.vote_log import Vote
from llava.serve.client.conversation import Chat, Figures, Turn
from llava.serve.page.chat_tab import LATEX, Updates, message_box
from llava.serve.page.context import Context, Controls, model_list, noted, said, sender_of
from llava.serve.page.log import LogFailed
from llava.serve.page.rendering import shown
from llava.serve.page.streaming import growing, growing_together

_SIDES: Final = ("A", "B")
_VOTES: Final[dict[Vote, str]] = {
    Vote.LEFT: "A is better",
    Vote.RIGHT: "B is better",
    Vote.TIE: "Tie",
    Vote.BOTH_BAD: "Both are bad",
}


@dataclass(frozen=True)
class Battle:
    """Two conversations that were asked the same."""

    models: tuple[str, ...] = ()
    """Left and right; empty until the first question."""
    chats: tuple[Chat, Chat] = field(default_factory=lambda: (Chat(), Chat()))
    id: str = ""
    voted: bool = False
    silent: frozenset[str] = frozenset()
    """Models that failed before their first word; others are drawn in their place."""

    @property
    def answered(self) -> bool:
        """Whether both sides have given an answer, be it cut short or empty."""
        return all(chat.turns and _is_answer(chat.turns[-1]) for chat in self.chats)

    @property
    def failed(self) -> frozenset[str]:
        """Models of which nothing but an error came."""
        ends = ((chat.turns[-1], model) for chat, model in zip(self.chats, self.models, strict=False) if chat.turns)
        return frozenset(model for turn, model in ends if turn.error and not turn.text)

    def for_another_draw(self) -> Battle:
        """The battle without its models, if one of them failed at the first question; else itself.

        A worker that has died is listed until its heartbeats have stayed away for a while: to ask it again is no use.
        """
        if not self.failed or len(self.chats[0].turns) > 2:
            return self
        return dataclasses.replace(self, models=(), silent=self.silent | self.failed)


class ArenaTab:
    """Draws one arena and answers its events; anonymous, the models are drawn by lot and named after the vote."""

    def __init__(self, context: Context, run_id: gr.Textbox, *, anonymous: bool):
        self._context, self._run_id, self._anonymous = context, run_id, anonymous
        self._draw()
        self._connect()

    @property
    def dropdowns(self) -> list[gr.Dropdown]:
        """The named arena's model lists, to be kept up to date; none in the anonymous one."""
        return self._models

    def _draw(self) -> None:
        self._battle = gr.State(Battle(), time_to_live=24 * 3600)
        prefix = "llava-anonymous" if self._anonymous else "llava-named"
        gr.Markdown(
            "Two models, drawn by lot, answer the same question. Vote for the better answer, and see who they were."
            if self._anonymous
            else "Choose two models, and compare their answers to the same question."
        )
        self._models: list[gr.Dropdown] = []
        if not self._anonymous:
            with gr.Row():
                self._models = [model_list(f"Model {side}", f"{prefix}-{side}") for side in _SIDES]
        with gr.Row():
            self._chatbots = [
                gr.Chatbot(
                    label=f"Model {side}",
                    elem_id=f"{prefix}-chat-{side}",
                    elem_classes="llava-chat llava-arena",
                    height="",
                    buttons=["copy"],
                    group_consecutive_messages=False,
                    feedback_options=None,
                    allow_tags=False,
                    latex_delimiters=LATEX,
                    min_width=280,
                )
                for side in _SIDES
            ]
        self._status = gr.HTML(visible=False)
        with gr.Row(elem_classes="llava-buttons"):
            self._votes = {kind: gr.Button(text, size="sm", interactive=False) for kind, text in _VOTES.items()}
        self._box = message_box(f"{prefix}-box")
        with gr.Row(elem_classes="llava-buttons"):
            self._stop = gr.Button("Stop", variant="stop", size="sm", visible=False)
            self._retry = gr.Button("Regenerate", size="sm", interactive=False)
            self._again = gr.Button("New round", size="sm", interactive=False)
        with gr.Accordion("Settings", open=False):
            self._controls = Controls.build()

    def _connect(self) -> None:
        inputs = [self._battle, self._run_id, *self._controls.components, *self._models]
        outputs = [
            *(self._box, self._battle, *self._chatbots, self._status, self._stop, self._retry, self._again),
            *self._votes.values(),
        ]
        common: dict[str, Any] = {"outputs": outputs, "show_progress": "hidden", "api_visibility": "private"}
        running: list[Any] = [
            self._box.submit(self._asked, [self._box, *inputs], concurrency_id="answers", **common),
            self._retry.click(self._asked_again, inputs, concurrency_id="answers", **common),
        ]
        quick: dict[str, Any] = {"concurrency_limit": None, **common}
        self._stop.click(self._stopped, [self._battle], cancels=running, **quick)
        self._again.click(self._cleared, [], **quick)
        for kind, button in self._votes.items():
            button.click(self._voter(kind), [self._battle], **quick)

    async def _asked(
        self, message: dict[str, Any], battle: Battle, run_id: str, request: gr.Request, *values: Any
    ) -> AsyncGenerator[Updates, None]:
        try:
            battle = await self._ready(battle, run_id, request, values)
            text, images = await self._context.read(message)
            chats = (battle.chats[0].ask(text, images), battle.chats[1].ask(text, images))
        except LlavaError as error:
            yield {self._status: said(error)}
            return
        asked = dataclasses.replace(battle, chats=chats)
        async with aclosing(self._answer(asked, values, request, box=None)) as updates:
            async for update in updates:
                yield update

    async def _asked_again(
        self, battle: Battle, run_id: str, request: gr.Request, *values: Any
    ) -> AsyncGenerator[Updates, None]:
        try:
            again = battle.for_another_draw() if self._anonymous else battle
            battle = await self._ready(again, run_id, request, values)
            if not battle.chats[0].turns:
                raise InvalidRequest("there is no question yet to answer again.")
        except LlavaError as error:
            yield {self._status: said(error)}
            return
        left, right = (chat.upto(len(chat.turns) - (chat.turns[-1].role == "assistant")) for chat in battle.chats)
        async with aclosing(self._answer(dataclasses.replace(battle, chats=(left, right)), values, request)) as updates:
            async for update in updates:
                yield update

    async def _ready(self, battle: Battle, run_id: str, request: gr.Request, values: tuple[Any, ...]) -> Battle:
        """The battle with its models.

        Raises:
            LlavaError: an answer is under way, or there are no two models.
        """
        await self._context.wait_until_idle(request.session_hash)
        served = await self._context.models.now()
        self._context.check(run_id, next(iter(served.names), None))
        if battle.models and not (battle.chats[0].turns and self._anonymous):
            battle = dataclasses.replace(battle, models=())
        if not battle.models:
            models = self._draw_lots(served.names, battle.silent, values)
            battle = dataclasses.replace(battle, models=models, id=uuid.uuid4().hex)
        return battle

    def _draw_lots(self, names: tuple[str, ...], silent: frozenset[str], values: tuple[Any, ...]) -> tuple[str, ...]:
        if self._anonymous:
            if len(names) < 2:
                raise InvalidRequest(f"an anonymous battle takes two models; served now: {', '.join(names)}.")
            others = [name for name in names if name not in silent]
            return tuple(random.sample(others if len(others) > 1 else names, 2))
        chosen = tuple(values[-2:])
        if not all(chosen):
            raise InvalidRequest("choose a model for each side.")
        return chosen

    async def _answer(
        self, battle: Battle, values: tuple[Any, ...], request: gr.Request, **first: Any
    ) -> AsyncGenerator[Updates, None]:
        settings, system = Controls.read(values[: len(self._controls.components)])
        left, right = (dataclasses.replace(chat, system=system) for chat in battle.chats)
        battle = dataclasses.replace(battle, chats=(left, right))
        off = gr.update(interactive=False)
        yield {
            **({self._box: None} if "box" in first else {}),
            **dict.fromkeys((self._retry, self._again, *self._votes.values()), off),
            self._stop: gr.update(visible=True),
            self._status: said(""),
            self._battle: battle,
            **self._drawn(battle, waiting=True),
        }
        start = time.time()
        both = [growing(self._context.source, chat, model, settings) for chat, model in self._pairs(battle)]
        with self._context.writing(request.session_hash):
            try:
                async with aclosing(growing_together(both)) as rounds:
                    async for newest in rounds:
                        battle = dataclasses.replace(battle, chats=(newest[0] or left, newest[1] or right))
                        yield {self._battle: battle, **self._drawn(battle, waiting=True)}
            finally:
                sender = sender_of(request, battle.id)
                for chat, model in self._pairs(battle):
                    await self._context.keep(chat, model, sender, start, time.time())
        unanswered = said(self._no_vote) if battle.failed else said("")
        yield {**self._settled(battle), self._status: unanswered}

    @property
    def _no_vote(self) -> str:
        remedy = "asks others, where there are any" if self._anonymous else "asks both again"
        return f"there is nothing to vote on, because one of the two gave no answer. Regenerate {remedy}."

    def _stopped(self, battle: Battle) -> Updates:
        return self._settled(battle)

    def _cleared(self) -> Updates:
        return self._settled(Battle())

    def _voter(self, kind: Vote) -> Any:
        async def voted(battle: Battle, request: gr.Request) -> Updates:
            if not battle.answered or battle.voted:
                return {self._status: said("one vote a round, when both have answered.")}
            try:
                stored = await asyncio.to_thread(self._store, kind, battle, request)
            except LogFailed as error:
                return {self._status: said(error)}
            battle = dataclasses.replace(battle, voted=True)
            thanks = "Thank you, your vote is stored." if stored else "This page keeps no votes; yours was not stored."
            return {**self._settled(battle), self._status: noted(thanks)}

        return voted

    def _store(self, kind: Vote, battle: Battle, request: gr.Request) -> bool:
        log = self._context.log
        if log is None:
            return False
        log.battle(kind, battle.chats, battle.models, sender_of(request, battle.id), anonymous=self._anonymous)
        return True

    # What the page looks like

    @staticmethod
    def _pairs(battle: Battle) -> list[tuple[Chat, str]]:
        return list(zip(battle.chats, battle.models, strict=True))

    def _drawn(self, battle: Battle, *, waiting: bool = False) -> Updates:
        known = battle.models and (battle.voted or not self._anonymous)
        updates: Updates = {}
        for index, (chatbot, chat) in enumerate(zip(self._chatbots, battle.chats, strict=True)):
            thinking = waiting and bool(chat.turns) and chat.turns[-1].role == "user"
            side = f"Model {_SIDES[index]}"
            label = f"{side}: {battle.models[index]}" if known else side
            visible = _without_figures(chat) if known else _nameless(_without_figures(chat), _SIDES[index])
            updates[chatbot] = gr.update(value=shown(visible, waiting=thinking), label=label)
        return updates

    def _settled(self, battle: Battle) -> Updates:
        may_vote = gr.update(interactive=battle.answered and not battle.voted)
        something = gr.update(interactive=bool(battle.chats[0].turns))
        return {
            self._battle: battle,
            self._status: said(""),
            self._stop: gr.update(visible=False),
            self._retry: gr.update(interactive=bool(battle.chats[0].turns) and not battle.voted),
            self._again: something,
            **dict.fromkeys(self._votes.values(), may_vote),
            **self._drawn(battle),
        }


def _is_answer(turn: Turn) -> bool:
    return turn.role == "assistant" and bool(turn.text or turn.figures.finish_reason)


def _without_figures(chat: Chat) -> Chat:
    """Speed and length of the prompt would tell who answers; how the answer ended may be known."""
    turns = (dataclasses.replace(turn, figures=Figures(turn.figures.finish_reason)) for turn in chat.turns)
    return dataclasses.replace(chat, turns=tuple(turns))


def _nameless(chat: Chat, side: str) -> Chat:
    """With A or B wherever an error quotes the model's name."""
    turns = (dataclasses.replace(turn, error=turn.error.replace(repr(turn.model), side)) for turn in chat.turns)
    return dataclasses.replace(chat, turns=tuple(turns))
