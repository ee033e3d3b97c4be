"""Runs the chat at a prompt: reads a line, carries it out, and starts over."""

from __future__ import annotations

from llava.errors import LlavaError, NoWorker
from llava.serve.client.conversation import Chat, Turn
from llava.serve.client.images import ChatImage
from llava.serve.terminal.capabilities import quiet_keyboard
from llava.serve.terminal.clean_text import well_formed
from llava.serve.terminal.commands import CommandResult, as_command, no_model, run_command
from llava.serve.terminal.hints import after_cut, after_error, is_at_fault
from llava.serve.terminal.interrupts import Interrupted, interruptible
from llava.serve.terminal.prompt import InputPrompt
from llava.serve.terminal.session import Session
from llava.serve.terminal.streaming import AnswerResult, show_answer
from llava.serve.terminal.view import View


class ConversationLoop:
    """A chat: a session, its prompt and its view."""

    def __init__(self, session: Session, prompt: InputPrompt, view: View):
        self._session = session
        self._prompt = prompt
        self._view = view

    async def run(self) -> None:
        """Runs until the user quits."""
        prefill = ""
        while True:
            try:
                line = await self._read(prefill)
            except EOFError:
                return
            except KeyboardInterrupt:
                self._cancel_edit()
                prefill = ""
                continue
            result = await self._do(line)
            if result.leave:
                return
            prefill = result.prefill

    async def _read(self, prefill: str) -> str:
        session = self._session
        label = f"edit {session.questions.index(session.editing) + 1} " if session.editing is not None else ""
        line = await self._prompt.read(images=len(session.waiting), label=label, prefill=prefill)
        return well_formed(line)

    def _cancel_edit(self) -> None:
        if self._session.editing is not None:
            self._session.editing = None
            self._say("The question was not changed.")
        else:
            self._say("Press Ctrl-D or type /quit to quit.")

    def _say(self, text: str) -> None:
        self._view.note(text)
        self._view.space()

    async def _do(self, line: str) -> CommandResult:
        command = as_command(line)
        try:
            if command is not None:
                return await self._command(command)
            if not line.strip() and self._session.editing is not None:
                self._cancel_edit()
            elif line.strip() or self._session.waiting:
                await self._question(line)
        except Interrupted:
            self._say("Stopped.")
        except LlavaError as error:
            self._view.error(str(error))
        except OSError as error:
            self._view.error(f"{error.filename}: {error.strerror}." if error.filename else str(error))
        return CommandResult()

    async def _command(self, line: str) -> CommandResult:
        result = await interruptible(run_command(self._session, line))
        if result.conversation is not None:
            self._view.conversation(result.conversation)
        for image in result.images:
            self._view.image(image)
        if result.text:
            self._say(result.text)
        if result.ask:
            await self._answer(before=None)
        return result

    async def _question(self, text: str) -> None:
        session = self._session
        before = (session.chat, session.waiting)
        session.ask(text)
        await self._answer(before)

    async def _answer(self, before: tuple[Chat, tuple[ChatImage, ...]] | None) -> None:
        """Answers the last question; restores the state `before` it if it can never be answered."""
        session, view = self._session, self._view
        first = len(session.questions) == 1
        answer = await self._write()
        taken_back = before is not None and not answer.turn.text and is_at_fault(answer.error)
        if before is not None and taken_back:
            session.chat, session.waiting = before
        else:
            session.chat = session.chat.answered(answer.turn)
        if answer.error is not None:
            view.error(str(answer.error), after_error(answer.error, first=first, taken_back=taken_back))
        elif answer.stopped:
            self._say("Stopped.")
        else:
            view.statistics(answer.turn.statistics, after_cut(answer.turn.statistics, session.settings))

    async def _write(self) -> AnswerResult:
        session = self._session
        try:
            await self._find_model()
        except Interrupted:
            return AnswerResult(Turn("assistant", ""), stopped=True)
        except LlavaError as error:
            return AnswerResult(Turn("assistant", "", error=str(error)), error)
        with quiet_keyboard():
            return await show_answer(session.source, session.chat, session.model, session.settings, self._view.answer())

    async def _find_model(self) -> None:
        """Looks again for a model if none was served before.

        Raises:
            NoWorker: there is still no model.
        """
        session = self._session
        if session.model:
            return
        names = await interruptible(session.source.models())
        if not names:
            raise NoWorker(no_model(session.address))
        session.model = names[0]
