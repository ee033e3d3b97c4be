"""The arena tabs: two models answer the same question side by side, and the user votes for the better answer."""

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
from llava.serve.client.conversation import AnswerStatistics, Chat, Turn
from llava.serve.page.context import PageContext, sender_of
from llava.serve.page.log import LogFailed
from llava.serve.page.rendering import shown
from llava.serve.page.status_line import error_line, no_line, note_line
from llava.serve.page.streaming import growing, growing_together
from llava.serve.page.widgets import LATEX, AnswerControls, message_box, model_list

Updates = dict[Any, Any]

_SIDES: Final = ("A", "B")
_VOTES: Final[dict[Vote, str]] = {
    Vote.LEFT: "A is better",
    Vote.RIGHT: "B is better",
    Vote.TIE: "Tie",
    Vote.BOTH_BAD: "Both are bad",
}


@dataclass(frozen=True)
class BattleState:
    """Two conversations that got the same questions."""

    models: tuple[str, ...] = ()
    """Names of the left and the right model; empty until the first question."""
    chats: tuple[Chat, Chat] = field(default_factory=lambda: (Chat(), Chat()))
    """The left and the right conversation."""
    id: str = ""
    """Identifies the battle in the log."""
    voted: bool = False
    """Whether the user has voted."""
    silent: frozenset[str] = frozenset()
    """Models that failed before their first word; other models are picked instead of them."""

    @property
    def answered(self) -> bool:
        """Whether both models have answered; an answer may be incomplete or empty."""
        return all(chat.turns and _is_answer(chat.turns[-1]) for chat in self.chats)

    @property
    def failed(self) -> frozenset[str]:
        """Models that gave nothing but an error."""
        ends = ((chat.turns[-1], model) for chat, model in zip(self.chats, self.models, strict=False) if chat.turns)
        return frozenset(model for turn, model in ends if turn.error and not turn.text)

    def for_another_pick(self) -> BattleState:
        """Returns the battle without its models if one of them failed at the first question; else the battle itself.

        A dead worker stays listed until enough heartbeats are missing, so asking it again would not help.
        """
        if not self.failed or len(self.chats[0].turns) > 2:
            return self
        return dataclasses.replace(self, models=(), silent=self.silent | self.failed)


class ArenaTab:
    """An arena and its events. In an anonymous one, models are picked at random and named after the vote."""

    def __init__(self, context: PageContext, run_id: gr.Textbox, *, anonymous: bool):
        self._context, self._run_id, self._anonymous = context, run_id, anonymous
        self._draw()
        self._connect()

    @property
    def dropdowns(self) -> list[gr.Dropdown]:
        """The model lists of a named arena, to be kept up to date; an anonymous arena has none."""
        return self._models

    def _draw(self) -> None:
        self._battle = gr.State(BattleState(), time_to_live=24 * 3600)
        prefix = "llava-anonymous" if self._anonymous else "llava-named"
        gr.Markdown(
            "Two models, picked at random, answer the same question. Vote for the better answer to see which they were."
            if self._anonymous
            else "Choose two models and compare their answers to the same question."
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
            self._new_round = gr.Button("New round", size="sm", interactive=False)
        with gr.Accordion("Settings", open=False):
            self._controls = AnswerControls()

    def _connect(self) -> None:
        inputs = [self._battle, self._run_id, *self._controls.components, *self._models]
        outputs = [
            *(self._box, self._battle, *self._chatbots, self._status, self._stop, self._retry, self._new_round),
            *self._votes.values(),
        ]
        common: dict[str, Any] = {"outputs": outputs, "show_progress": "hidden", "api_visibility": "private"}
        running: list[Any] = [
            self._box.submit(self._asked, [self._box, *inputs], concurrency_id="answers", **common),
            self._retry.click(self._asked_again, inputs, concurrency_id="answers", **common),
        ]
        quick: dict[str, Any] = {"concurrency_limit": None, **common}
        self._stop.click(self._stopped, [self._battle], cancels=running, **quick)
        self._new_round.click(self._cleared, [], **quick)
        for kind, button in self._votes.items():
            button.click(self._voter(kind), [self._battle], **quick)

    async def _asked(
        self, message: dict[str, Any], battle: BattleState, run_id: str, request: gr.Request, *values: Any
    ) -> AsyncGenerator[Updates, None]:
        try:
            battle = await self._ready(battle, run_id, request, values)
            text, images = await self._context.read(message)
            chats = (battle.chats[0].ask(text, images), battle.chats[1].ask(text, images))
        except LlavaError as error:
            yield {self._status: error_line(error)}
            return
        asked = dataclasses.replace(battle, chats=chats)
        async with aclosing(self._answer(asked, values, request, clear_box=True)) as updates:
            async for update in updates:
                yield update

    async def _asked_again(
        self, battle: BattleState, run_id: str, request: gr.Request, *values: Any
    ) -> AsyncGenerator[Updates, None]:
        try:
            again = battle.for_another_pick() if self._anonymous else battle
            battle = await self._ready(again, run_id, request, values)
            if not battle.chats[0].turns:
                raise InvalidRequest("there is no question to answer yet.")
        except LlavaError as error:
            yield {self._status: error_line(error)}
            return
        left, right = (chat.unanswered() for chat in battle.chats)
        async with aclosing(self._answer(dataclasses.replace(battle, chats=(left, right)), values, request)) as updates:
            async for update in updates:
                yield update

    async def _ready(
        self, battle: BattleState, run_id: str, request: gr.Request, values: tuple[Any, ...]
    ) -> BattleState:
        """Returns the battle with its models.

        Raises:
            LlavaError: an answer is still being written, or two models cannot be chosen.
        """
        await self._context.wait_until_idle(request.session_hash)
        served = await self._context.models.now()
        self._context.check(run_id, next(iter(served.names), None))
        if battle.models and not (battle.chats[0].turns and self._anonymous):
            battle = dataclasses.replace(battle, models=())
        if not battle.models:
            models = self._pick_models(served.names, battle.silent, values)
            battle = dataclasses.replace(battle, models=models, id=uuid.uuid4().hex)
        return battle

    def _pick_models(self, names: tuple[str, ...], silent: frozenset[str], values: tuple[Any, ...]) -> tuple[str, ...]:
        if self._anonymous:
            if len(names) < 2:
                raise InvalidRequest(f"an anonymous battle needs two models, but only {names[0]} is served now.")
            others = [name for name in names if name not in silent]
            return tuple(random.sample(others if len(others) > 1 else names, 2))
        chosen = tuple(values[-2:])
        if not all(chosen):
            raise InvalidRequest("choose a model for each side.")
        return chosen

    async def _answer(
        self, battle: BattleState, values: tuple[Any, ...], request: gr.Request, *, clear_box: bool = False
    ) -> AsyncGenerator[Updates, None]:
        """Yields the updates from the question until both answers have ended."""
        settings, system = self._controls.read(values[: len(self._controls.components)])
        left, right = (dataclasses.replace(chat, system=system) for chat in battle.chats)
        battle = dataclasses.replace(battle, chats=(left, right))
        off = gr.update(interactive=False)
        yield {
            **({self._box: None} if clear_box else {}),
            **dict.fromkeys((self._retry, self._new_round, *self._votes.values()), off),
            self._stop: gr.update(visible=True),
            self._status: no_line(),
            self._battle: battle,
            **self._drawn(battle, waiting=True),
        }
        start = time.time()
        both = [growing(self._context.source, chat, model, settings) for chat, model in self._pairs(battle)]
        with self._context.busy_tabs.writing(request.session_hash):
            try:
                async with aclosing(growing_together(both)) as rounds:
                    async for newest in rounds:
                        battle = dataclasses.replace(battle, chats=(newest[0] or left, newest[1] or right))
                        yield {self._battle: battle, **self._drawn(battle, waiting=True)}
            finally:
                sender = sender_of(request, battle.id)
                for chat, model in self._pairs(battle):
                    await self._context.log_answer(chat, model, sender, start, time.time())
        status = error_line(self._no_vote) if battle.failed else no_line()
        yield {**self._settled(battle), self._status: status}

    @property
    def _no_vote(self) -> str:
        remedy = "asks other models, if there are any" if self._anonymous else "asks both again"
        return f"there is nothing to vote on because a model did not answer. Regenerate {remedy}."

    def _stopped(self, battle: BattleState) -> Updates:
        return self._settled(battle)

    def _cleared(self) -> Updates:
        return self._settled(BattleState())

    def _voter(self, kind: Vote) -> Any:
        async def voted(battle: BattleState, request: gr.Request) -> Updates:
            if not battle.answered or battle.voted:
                return {self._status: error_line("you can vote once a round, after both models have answered.")}
            try:
                stored = await asyncio.to_thread(self._store, kind, battle, request)
            except LogFailed as error:
                return {self._status: error_line(error)}
            battle = dataclasses.replace(battle, voted=True)
            thanks = "Thank you. Your vote has been stored." if stored else "This page does not store votes."
            return {**self._settled(battle), self._status: note_line(thanks)}

        return voted

    def _store(self, kind: Vote, battle: BattleState, request: gr.Request) -> bool:
        log = self._context.log
        if log is None:
            return False
        log.battle(kind, battle.chats, battle.models, sender_of(request, battle.id), anonymous=self._anonymous)
        return True

    # Appearance

    @staticmethod
    def _pairs(battle: BattleState) -> list[tuple[Chat, str]]:
        return list(zip(battle.chats, battle.models, strict=True))

    def _drawn(self, battle: BattleState, *, waiting: bool = False) -> Updates:
        known = battle.models and (battle.voted or not self._anonymous)
        updates: Updates = {}
        for index, (chatbot, chat) in enumerate(zip(self._chatbots, battle.chats, strict=True)):
            thinking = waiting and bool(chat.turns) and chat.turns[-1].role == "user"
            side = f"Model {_SIDES[index]}"
            label = f"{side}: {battle.models[index]}" if known else side
            visible = _without_statistics(chat) if known else _nameless(_without_statistics(chat), _SIDES[index])
            updates[chatbot] = gr.update(value=shown(visible, waiting=thinking), label=label)
        return updates

    def _settled(self, battle: BattleState) -> Updates:
        may_vote = gr.update(interactive=battle.answered and not battle.voted)
        has_turns = bool(battle.chats[0].turns)
        return {
            self._battle: battle,
            self._status: no_line(),
            self._stop: gr.update(visible=False),
            self._retry: gr.update(interactive=has_turns and not battle.voted),
            self._new_round: gr.update(interactive=has_turns),
            **dict.fromkeys(self._votes.values(), may_vote),
            **self._drawn(battle),
        }


def _is_answer(turn: Turn) -> bool:
    return turn.role == "assistant" and bool(turn.text or turn.statistics.finish_reason)


def _without_statistics(chat: Chat) -> Chat:
    """The chat with nothing but the finish reasons: speed and token counts would reveal a model."""
    turns = (
        dataclasses.replace(turn, statistics=AnswerStatistics(turn.statistics.finish_reason)) for turn in chat.turns
    )
    return dataclasses.replace(chat, turns=tuple(turns))


def _nameless(chat: Chat, side: str) -> Chat:
    """The chat with A or B in place of the model's name in its errors."""
    turns = (dataclasses.replace(turn, error=turn.error.replace(repr(turn.model), side)) for turn in chat.turns)
    return dataclasses.replace(chat, turns=tuple(turns))
