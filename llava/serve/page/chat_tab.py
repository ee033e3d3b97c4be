"""The chat tab: one model, any number of turns and images."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import gradio as gr

from llava.errors import DataError, InvalidRequest, LlavaError
from llava.serve.client.conversation import Chat
from llava.serve.client.conversation_file import read_chat, to_json, to_markdown
from llava.serve.page.context import PageContext, sender_of
from llava.serve.page.log import AnswerVote, LogFailed
from llava.serve.page.rendering import as_typed, shown, turn_at
from llava.serve.page.status_line import error_line, no_line, note_line
from llava.serve.page.streaming import growing
from llava.serve.page.widgets import LATEX, AnswerControls, message_box

Updates = dict[Any, Any]

_KEPT_CHARACTERS: Final = 4_000_000
"""Longest conversation that the browser stores; a longer one is lost when the page is reloaded."""
_NOTHING_KEPT: Final = "nothing"
"""Stored after Clear. Gradio assumes that an empty text is stored already and would not store it."""
_DOWNLOAD: Final = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file.text], {type: file.type}));
  link.download = file.name;
  link.click();
  URL.revokeObjectURL(link.href);
}"""


@dataclass(frozen=True)
class TabState:
    """The conversation in one open page."""

    chat: Chat = field(default_factory=Chat)
    id: str = ""
    """Identifies the conversation in the log."""


class ChatTab:
    """The widgets of the chat and their events."""

    def __init__(self, context: PageContext, model: gr.Dropdown, run_id: gr.Textbox, kept: gr.BrowserState):
        """
        Args:
            model: the page's list of models.
            run_id: the hidden field that identifies the server's process.
            kept: the browser's storage.
        """
        self._context, self._model, self._run_id, self._kept = context, model, run_id, kept
        self._draw()
        self._connect()

    def _draw(self) -> None:
        self._box = message_box("llava-box", render=False)  # the examples, which come first, refer to it
        self._state = gr.State(TabState(), time_to_live=24 * 3600)
        with gr.Row(elem_classes="llava-columns"):
            with gr.Column(scale=3, min_width=260, elem_classes="llava-settings"):
                self._controls = AnswerControls()
                self._file_buttons()
                self._examples()
            with gr.Column(scale=8, min_width=320):
                self._chatbot = gr.Chatbot(
                    label="Conversation",
                    show_label=False,
                    elem_id="llava-chat",
                    elem_classes="llava-chat",
                    height="",
                    buttons=["copy", "copy_all"],
                    editable="user",
                    group_consecutive_messages=False,
                    feedback_options=None,
                    allow_tags=False,
                    placeholder="Drop, paste or choose images below and ask about them.",
                    latex_delimiters=LATEX,
                )
                self._status = gr.HTML(visible=False, elem_id="llava-status")
                self._box.render()
                with gr.Row(elem_classes="llava-buttons"):
                    self._stop = gr.Button("Stop", variant="stop", size="sm", visible=False, elem_id="llava-stop")
                    self._retry = gr.Button("Regenerate", size="sm", interactive=False)
                    self._undo = gr.Button("Undo", size="sm", interactive=False)
                    self._clear = gr.Button("Clear", size="sm", interactive=False)
                    self._votes = self._vote_buttons()

    def _file_buttons(self) -> None:
        with gr.Accordion("Save or open a conversation", open=False):
            with gr.Row():
                self._save_json = gr.Button("Save as JSON", size="sm")
                self._save_markdown = gr.Button("Save as Markdown", size="sm")
            self._open = gr.UploadButton(
                "Open a saved conversation", size="sm", file_types=[".json", ".md"], type="filepath"
            )
        self._download = gr.JSON(visible="hidden")

    def _examples(self) -> None:
        folder = Path(str(resources.files("llava.serve.page") / "examples"))
        entries = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
        rows = [{"text": entry["question"], "files": [str(folder / entry["image"])]} for entry in entries]
        gr.Examples([[row] for row in rows], inputs=[self._box], label="Examples", api_visibility="private")

    def _vote_buttons(self) -> dict[AnswerVote, gr.Button]:
        """The buttons, if votes are logged."""
        if self._context.log is None:
            return {}
        labels: dict[AnswerVote, str] = {"upvote": "Upvote", "downvote": "Downvote", "flag": "Flag"}
        return {kind: gr.Button(label, size="sm", interactive=False) for kind, label in labels.items()}

    # Events

    def _connect(self) -> None:
        inputs = [self._state, self._model, self._run_id, *self._controls.components]
        outputs = [
            *(self._box, self._state, self._chatbot, self._status, self._kept),
            *(self._stop, self._retry, self._undo, self._clear, *self._votes.values()),
        ]
        writes: dict[str, Any] = {"outputs": outputs, "concurrency_id": "answers", "show_progress": "hidden"}
        quick: dict[str, Any] = {"outputs": outputs, "concurrency_limit": None, "show_progress": "hidden"}
        running: list[Any] = [
            self._box.submit(self._asked, [self._box, *inputs], api_name="chat", **writes),
            self._retry.click(self._asked_again, inputs, api_visibility="private", **writes),
            self._chatbot.retry(self._asked_again, inputs, api_visibility="private", **writes),
            self._chatbot.edit(self._edited, inputs, api_visibility="private", **writes),
        ]
        private: dict[str, Any] = {"api_visibility": "private", **quick}
        self._stop.click(self._stopped, [self._state], cancels=running, **private)
        self._undo.click(self._undone, [self._state], **private)
        self._chatbot.undo(self._undone, [self._state], **private)
        self._clear.click(self._cleared, [], **private)
        self._chatbot.clear(self._cleared, [], **private)
        self._open.upload(self._opened, [self._open], **private)
        for button, write, kind in (
            (self._save_json, to_json, ("llava-chat.json", "application/json")),
            (self._save_markdown, to_markdown, ("llava-chat.md", "text/markdown")),
        ):
            saved = button.click(
                _saver(write, *kind),
                [self._state],
                [self._download],
                api_visibility="private",
                concurrency_limit=None,
                show_progress="hidden",
            )
            saved.success(None, [self._download], js=_DOWNLOAD, api_visibility="private")
        for kind_of_vote, vote_button in self._votes.items():
            vote_button.click(self._voter(kind_of_vote), [self._state], **private)

    def restore_on(self, load: Any) -> None:
        """Restores the conversation that the browser stored when the page is opened."""
        load(
            self._restored,
            [self._kept],
            [self._state, self._chatbot, self._retry, self._undo, self._clear],
            api_visibility="private",
            concurrency_limit=None,
            show_progress="hidden",
        )

    async def _asked(
        self,
        message: dict[str, Any],
        tab: TabState,
        model: str | None,
        run_id: str,
        request: gr.Request,
        *controls: Any,
    ) -> AsyncGenerator[Updates, None]:
        try:
            model = await self._ready(request, model, run_id)
            text, images = await self._context.read(message)
            chat = tab.chat.ask(text, images)
        except LlavaError as error:
            yield {self._status: error_line(error)}
            return
        async with aclosing(self._answer(chat, tab, model, controls, request, clear_box=True)) as updates:
            async for update in updates:
                yield update

    async def _asked_again(
        self, tab: TabState, model: str | None, run_id: str, request: gr.Request, *controls: Any
    ) -> AsyncGenerator[Updates, None]:
        chat = tab.chat
        try:
            model = await self._ready(request, model, run_id)
            if not chat.turns:
                raise InvalidRequest("there is no question to answer yet.")
        except LlavaError as error:
            yield {self._status: error_line(error)}
            return
        async with aclosing(self._answer(chat.unanswered(), tab, model, controls, request)) as updates:
            async for update in updates:
                yield update

    async def _edited(
        self,
        tab: TabState,
        model: str | None,
        run_id: str,
        edit: gr.EditData,
        request: gr.Request,
        *controls: Any,
    ) -> AsyncGenerator[Updates, None]:
        try:
            model = await self._ready(request, model, run_id)
            chat = tab.chat.edited(turn_at(tab.chat, edit.index), as_typed(str(edit.value)))
        except LlavaError as error:
            yield {self._status: error_line(error), self._chatbot: shown(tab.chat)}
            return
        async with aclosing(self._answer(chat, tab, model, controls, request)) as updates:
            async for update in updates:
                yield update

    async def _ready(self, request: gr.Request, model: str | None, run_id: str) -> str:
        await self._context.wait_until_idle(request.session_hash)
        return self._context.check(run_id, model)

    async def _answer(
        self,
        chat: Chat,
        tab: TabState,
        model: str,
        controls: tuple[Any, ...],
        request: gr.Request,
        *,
        clear_box: bool = False,
    ) -> AsyncGenerator[Updates, None]:
        """Yields the updates from the question until the answer has ended."""
        settings, system = self._controls.read(controls)
        chat = dataclasses.replace(chat, system=system)
        tab = TabState(chat, tab.id or uuid.uuid4().hex)
        yield {
            **({self._box: None} if clear_box else {}),
            **self._while_writing(),
            self._status: no_line(),
            self._state: tab,
            self._chatbot: shown(chat, waiting=True),
        }
        start = time.time()
        grown = chat
        with self._context.busy_tabs.writing(request.session_hash):
            try:
                async with aclosing(growing(self._context.source, chat, model, settings)) as chats:
                    async for grown in chats:
                        yield {
                            self._state: dataclasses.replace(tab, chat=grown),
                            self._chatbot: shown(grown, waiting=not grown.turns[-1].text),
                        }
            finally:
                # A stopped answer is logged, too.
                sender = sender_of(request, tab.id)
                await self._context.log_answer(grown, model, sender, start, time.time())
        yield self._settled(dataclasses.replace(tab, chat=grown))

    def _stopped(self, tab: TabState) -> Updates:
        return self._settled(tab)

    async def _undone(self, tab: TabState, request: gr.Request) -> Updates:
        """Moves the text of the last question back into the box; its images are removed."""
        turns = tab.chat.turns
        questions = [index for index, turn in enumerate(turns) if turn.role == "user"]
        try:
            await self._context.wait_until_idle(request.session_hash)
            if not questions:
                raise InvalidRequest("there is nothing to undo.")
        except LlavaError as error:
            return {self._status: error_line(error)}
        chat = tab.chat.upto(questions[-1])
        box = {"text": turns[questions[-1]].text, "files": []}
        return {**self._settled(dataclasses.replace(tab, chat=chat)), self._box: box}

    def _cleared(self) -> Updates:
        return {**self._settled(TabState()), self._kept: _NOTHING_KEPT}

    async def _opened(self, file: str, request: gr.Request) -> Updates:
        path = Path(file)
        try:
            await self._context.wait_until_idle(request.session_hash)
            chat = read_chat(path.read_bytes(), name=path.name)
        except (LlavaError, OSError) as error:
            return {self._status: error_line(DataError(str(error)))}
        finally:
            path.unlink(missing_ok=True)
        return self._settled(TabState(chat, uuid.uuid4().hex))

    def _restored(self, kept: str | None) -> Updates:
        if kept in (None, "", _NOTHING_KEPT):
            return {self._state: TabState()}
        try:
            tab = TabState(read_chat(kept.encode(), name="the conversation stored in this browser"), uuid.uuid4().hex)
        except DataError:
            return {self._state: TabState()}  # stored by another version; the user can do nothing about it
        updates = self._settled(tab)
        return {part: updates[part] for part in (self._state, self._chatbot, self._retry, self._undo, self._clear)}

    def _voter(self, kind: AnswerVote) -> Any:
        def voted(tab: TabState, request: gr.Request) -> Updates:
            log, turns = self._context.log, tab.chat.turns
            if log is None or not turns or turns[-1].role != "assistant":
                return {self._status: error_line("there is no answer to vote on yet.")}
            try:
                log.vote(kind, tab.chat, turns[-1].model, sender_of(request, tab.id))
            except LogFailed as error:
                return {self._status: error_line(error)}
            return {
                self._status: note_line("Thank you. Your vote has been stored."),
                **self._vote_updates(interactive=False),
            }

        return voted

    # Appearance

    def _while_writing(self) -> Updates:
        off = gr.update(interactive=False)
        return {
            self._stop: gr.update(visible=True),
            **dict.fromkeys((self._retry, self._undo, self._clear), off),
            **self._vote_updates(interactive=False),
        }

    def _settled(self, tab: TabState) -> Updates:
        """The widgets when no answer is being written."""
        turns = tab.chat.turns
        answered = bool(turns) and turns[-1].role == "assistant" and bool(turns[-1].text)
        if_any = gr.update(interactive=bool(turns))
        document = to_json(tab.chat) if turns else ""
        return {
            self._state: tab,
            self._chatbot: shown(tab.chat),
            self._status: no_line(),
            self._kept: document if 0 < len(document) <= _KEPT_CHARACTERS else _NOTHING_KEPT,
            self._stop: gr.update(visible=False),
            **dict.fromkeys((self._retry, self._undo, self._clear), if_any),
            **self._vote_updates(interactive=answered),
        }

    def _vote_updates(self, *, interactive: bool) -> Updates:
        return dict.fromkeys(self._votes.values(), gr.update(interactive=interactive))


def _saver(write: Any, name: str, kind: str) -> Any:
    def saved(tab: TabState) -> dict[str, str]:
        return {"name": name, "type": kind, "text": write(tab.chat)}

    return saved
