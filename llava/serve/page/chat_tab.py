"""The chat: one model, any number of turns and images."""

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
from llava.serve.page.context import Context, Controls, noted, said, sender_of
from llava.serve.page.log import AnswerVote, LogFailed
from llava.serve.page.rendering import as_typed, shown, turn_at
from llava.serve.page.streaming import growing

Updates = dict[Any, Any]

_KEPT_CHARACTERS: Final = 4_000_000
"""What a browser keeps for a page; a longer conversation is gone after a reload."""
_NOTHING_KEPT: Final = "nothing"
"""Not an empty text: that is what gradio believes to be there when a page is opened, and so does not store."""
_DOWNLOAD: Final = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file.text], {type: file.type}));
  link.download = file.name;
  link.click();
  URL.revokeObjectURL(link.href);
}"""


@dataclass(frozen=True)
class Session:
    """One conversation of one open page."""

    chat: Chat = field(default_factory=Chat)
    id: str = ""


class ChatTab:
    """Draws the chat and answers its events."""

    def __init__(self, context: Context, model: gr.Dropdown, run_id: gr.Textbox, kept: gr.BrowserState):
        """Args: the page's model list, the hidden field with the server's run, and the browser's own storage."""
        self._context, self._model, self._run_id, self._kept = context, model, run_id, kept
        self._draw()
        self._connect()

    def _draw(self) -> None:
        self._box = message_box("llava-box", render=False)  # the examples beside the chat need it first
        self._session = gr.State(Session(), time_to_live=24 * 3600)
        with gr.Row(elem_classes="llava-columns"):
            with gr.Column(scale=3, min_width=260, elem_classes="llava-settings"):
                self._controls = Controls.build()
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
                    placeholder="Drop, paste or choose images below, and ask about them.",
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
        with gr.Accordion("Conversation as a file", open=False):
            with gr.Row():
                self._save_json = gr.Button("Save as JSON", size="sm")
                self._save_markdown = gr.Button("Save as Markdown", size="sm")
            self._open = gr.UploadButton("Open a saved one", size="sm", file_types=[".json", ".md"], type="filepath")
        self._download = gr.JSON(visible="hidden")

    def _examples(self) -> None:
        folder = Path(str(resources.files("llava.serve.page") / "examples"))
        entries = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
        rows = [{"text": entry["question"], "files": [str(folder / entry["image"])]} for entry in entries]
        gr.Examples([[row] for row in rows], inputs=[self._box], label="Try one", api_visibility="private")

    def _vote_buttons(self) -> dict[AnswerVote, gr.Button]:
        """Only where votes are kept."""
        if self._context.log is None:
            return {}
        labels: dict[AnswerVote, str] = {"upvote": "Upvote", "downvote": "Downvote", "flag": "Flag"}
        return {kind: gr.Button(label, size="sm", interactive=False) for kind, label in labels.items()}

    # Events

    def _connect(self) -> None:
        inputs = [self._session, self._model, self._run_id, *self._controls.components]
        outputs = [
            *(self._box, self._session, self._chatbot, self._status, self._kept),
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
        self._stop.click(self._stopped, [self._session], cancels=running, **private)
        self._undo.click(self._undone, [self._session], **private)
        self._chatbot.undo(self._undone, [self._session], **private)
        self._clear.click(self._cleared, [], **private)
        self._chatbot.clear(self._cleared, [], **private)
        self._open.upload(self._opened, [self._open], **private)
        for button, write, kind in (
            (self._save_json, to_json, ("llava-chat.json", "application/json")),
            (self._save_markdown, to_markdown, ("llava-chat.md", "text/markdown")),
        ):
            saved = button.click(
                _saver(write, *kind),
                [self._session],
                [self._download],
                api_visibility="private",
                concurrency_limit=None,
                show_progress="hidden",
            )
            saved.success(None, [self._download], js=_DOWNLOAD, api_visibility="private")
        for kind_of_vote, vote_button in self._votes.items():
            vote_button.click(self._voter(kind_of_vote), [self._session], **private)

    def restore_on(self, load: Any) -> None:
        """Brings back what the browser kept, when the page is opened."""
        load(
            self._restored,
            [self._kept],
            [self._session, self._chatbot, self._retry, self._undo, self._clear],
            api_visibility="private",
            concurrency_limit=None,
            show_progress="hidden",
        )

    async def _asked(
        self,
        message: dict[str, Any],
        session: Session,
        model: str | None,
        run_id: str,
        request: gr.Request,
        *controls: Any,
    ) -> AsyncGenerator[Updates, None]:
        try:
            model = await self._ready(request, model, run_id)
            text, images = await self._context.read(message)
            chat = session.chat.ask(text, images)
        except LlavaError as error:
            yield {self._status: said(error)}
            return
        async with aclosing(self._answer(chat, session, model, controls, request, box=None)) as updates:
            async for update in updates:
                yield update

    async def _asked_again(
        self, session: Session, model: str | None, run_id: str, request: gr.Request, *controls: Any
    ) -> AsyncGenerator[Updates, None]:
        chat = session.chat
        try:
            model = await self._ready(request, model, run_id)
            if not chat.turns:
                raise InvalidRequest("there is no question yet to answer again.")
        except LlavaError as error:
            yield {self._status: said(error)}
            return
        if chat.turns[-1].role == "assistant":
            chat = chat.upto(len(chat.turns) - 1)
        async with aclosing(self._answer(chat, session, model, controls, request)) as updates:
            async for update in updates:
                yield update

    async def _edited(
        self,
        session: Session,
        model: str | None,
        run_id: str,
        edit: gr.EditData,
        request: gr.Request,
        *controls: Any,
    ) -> AsyncGenerator[Updates, None]:
        try:
            model = await self._ready(request, model, run_id)
            chat = session.chat.edited(turn_at(session.chat, edit.index), as_typed(str(edit.value)))
        except LlavaError as error:
            yield {self._status: said(error), self._chatbot: shown(session.chat)}
            return
        async with aclosing(self._answer(chat, session, model, controls, request)) as updates:
            async for update in updates:
                yield update

    async def _ready(self, request: gr.Request, model: str | None, run_id: str) -> str:
        await self._context.wait_until_idle(request.session_hash)
        return self._context.check(run_id, model)

    async def _answer(
        self, chat: Chat, session: Session, model: str, controls: tuple[Any, ...], request: gr.Request, **first: Any
    ) -> AsyncGenerator[Updates, None]:
        """The updates from the moment of asking until the answer's end."""
        settings, system = Controls.read(controls)
        chat = dataclasses.replace(chat, system=system)
        session = Session(chat, session.id or uuid.uuid4().hex)
        cleared = {self._box: None} if "box" in first else {}
        yield {
            **cleared,
            **self._while_writing(),
            self._status: said(""),
            self._session: session,
            self._chatbot: shown(chat, waiting=True),
        }
        start = time.time()
        grown = chat
        with self._context.writing(request.session_hash):
            try:
                async with aclosing(growing(self._context.source, chat, model, settings)) as chats:
                    async for grown in chats:
                        yield {
                            self._session: dataclasses.replace(session, chat=grown),
                            self._chatbot: shown(grown, waiting=not grown.turns[-1].text),
                        }
            finally:
                # Also of an answer that was stopped.
                sender = sender_of(request, session.id)
                await self._context.keep(grown, model, sender, start, time.time())
        yield self._settled(dataclasses.replace(session, chat=grown))

    def _stopped(self, session: Session) -> Updates:
        return self._settled(session)

    async def _undone(self, session: Session, request: gr.Request) -> Updates:
        """Takes the last question back into the box; its images go."""
        turns = session.chat.turns
        questions = [index for index, turn in enumerate(turns) if turn.role == "user"]
        try:
            await self._context.wait_until_idle(request.session_hash)
            if not questions:
                raise InvalidRequest("there is nothing to take back.")
        except LlavaError as error:
            return {self._status: said(error)}
        chat = session.chat.upto(questions[-1])
        box = {"text": turns[questions[-1]].text, "files": []}
        return {**self._settled(dataclasses.replace(session, chat=chat)), self._box: box}

    def _cleared(self) -> Updates:
        return {**self._settled(Session()), self._kept: _NOTHING_KEPT}

    async def _opened(self, file: str, request: gr.Request) -> Updates:
        path = Path(file)
        try:
            await self._context.wait_until_idle(request.session_hash)
            chat = read_chat(path.read_bytes(), name=path.name)
        except (LlavaError, OSError) as error:
            return {self._status: said(DataError(str(error)))}
        finally:
            path.unlink(missing_ok=True)
        return self._settled(Session(chat, uuid.uuid4().hex))

    def _restored(self, kept: str | None) -> Updates:
        if kept in (None, "", _NOTHING_KEPT):
            return {self._session: Session()}
        try:
            session = Session(read_chat(kept.encode(), name="the conversation kept in this browser"), uuid.uuid4().hex)
        except DataError:
            return {self._session: Session()}  # of another release; there is nobody to tell
        updates = self._settled(session)
        return {part: updates[part] for part in (self._session, self._chatbot, self._retry, self._undo, self._clear)}

    def _voter(self, kind: AnswerVote) -> Any:
        def voted(session: Session, request: gr.Request) -> Updates:
            log, turns = self._context.log, session.chat.turns
            if log is None or not turns or turns[-1].role != "assistant":
                return {self._status: said("there is no answer yet to vote on.")}
            try:
                log.vote(kind, session.chat, turns[-1].model, sender_of(request, session.id))
            except LogFailed as error:
                return {self._status: said(error)}
            return {self._status: noted("Thank you, your vote is stored."), **self._vote_updates(interactive=False)}

        return voted

    # What the page looks like

    def _while_writing(self) -> Updates:
        off = gr.update(interactive=False)
        return {
            self._stop: gr.update(visible=True),
            **dict.fromkeys((self._retry, self._undo, self._clear), off),
            **self._vote_updates(interactive=False),
        }

    def _settled(self, session: Session) -> Updates:
        """The page when nothing is under way."""
        turns = session.chat.turns
        answered = bool(turns) and turns[-1].role == "assistant" and bool(turns[-1].text)
        something = gr.update(interactive=bool(turns))
        document = to_json(session.chat) if turns else ""
        return {
            self._session: session,
            self._chatbot: shown(session.chat),
            self._status: said(""),
            self._kept: document if 0 < len(document) <= _KEPT_CHARACTERS else _NOTHING_KEPT,
            self._stop: gr.update(visible=False),
            **dict.fromkeys((self._retry, self._undo, self._clear), something),
            **self._vote_updates(interactive=answered),
        }

    def _vote_updates(self, *, interactive: bool) -> Updates:
        return dict.fromkeys(self._votes.values(), gr.update(interactive=interactive))


LATEX: Final[list[dict[str, str | bool]]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
"""No single dollar: answers speak of prices more often than of formulas."""


def message_box(name: str, *, render: bool = True) -> gr.MultimodalTextbox:
    """Where questions are typed and images are dropped, pasted or chosen."""
    return gr.MultimodalTextbox(
        label="Message",
        show_label=False,
        placeholder="Ask about an image",
        file_types=["image"],
        file_count="multiple",
        sources=["upload"],
        max_lines=8,
        max_plain_text_length=MAX_PASTED,
        elem_id=name,
        elem_classes="llava-box",
        render=render,
    )


MAX_PASTED: Final = 100_000
"""Pasted text beyond this becomes a file, which is no image."""


def _saver(write: Any, name: str, kind: str) -> Any:
    def saved(session: Session) -> dict[str, str]:
        return {"name": name, "type": kind, "text": write(session.chat)}

    return saved
