"""The chat at a prompt: reads a line, does what it says, again and again."""

from __future__ import annotations

from llava.errors import LlavaError, NoWorker
from llava.serve.client.conversation import Chat, Turn
from llava.serve.client.images import ChatImage
from llava.serve.terminal.capabilities import quiet_keyboard
from llava.serve.terminal.clean_text import well_formed
from llava.serve.terminal.commands import Outcome, as_command, no_model, run_command
from llava.serve.terminal.interrupts import Interrupted, interruptible
from llava.serve.terminal.prompt import Prompt
from llava.serve.terminal.remedies import is_at_fault, limit_reached, remedy
from llava.serve.terminal.session import Session
from llava.serve.terminal.streaming import Result, show_answer
from llava.serve.terminal.view import View


class ConversationLoop:
    """Joins a session, a prompt and a view."""

    def __init__(self, session: Session, prompt: Prompt, view: View):
        self._session = session
        self._prompt = prompt
        self._view = view

    async def run(self) -> None:
        """Until the user leaves."""
        prefill = ""
        while True:
            try:
                line = await self._read(prefill)
            except EOFError:
                return
            except KeyboardInterrupt:
                self._left_alone()
                prefill = ""
                continue
            outcome = await self._do(line)
            if outcome.leave:
                return
            prefill = outcome.prefill

    async def _read(self, prefill: str) -> str:
        session = self._session
        label = f"edit {session.questions.index(session.editing) + 1} " if session.editing is not None else ""
        line = await self._prompt.read(images=len(session.waiting), label=label, prefill=prefill)
        return well_formed(line)

    def _left_alone(self) -> None:
        if self._session.editing is not None:
            self._session.editing = None
            self._say("The question stays as it was.")
        else:
            self._say("Ctrl-D or /quit leaves.")

    def _say(self, text: str) -> None:
        self._view.note(text)
        self._view.space()

    async def _do(self, line: str) -> Outcome:
        command = as_command(line)
        try:
            if command is not None:
                return await self._command(command)
            if not line.strip() and self._session.editing is not None:
                self._left_alone()
            elif line.strip() or self._session.waiting:
                await self._question(line)
        except Interrupted:
            self._say("Stopped.")
        except LlavaError as error:
            self._view.error(str(error))
        except OSError as error:
            self._view.error(f"{error.filename}: {error.strerror}." if error.filename else str(error))
        return Outcome()

    async def _command(self, line: str) -> Outcome:
        outcome = await interruptible(run_command(self._session, line))
        if outcome.conversation is not None:
            self._view.conversation(outcome.conversation)
        for image in outcome.images:
            self._view.image(image)
        if outcome.text:
            self._say(outcome.text)
        if outcome.ask:
            await self._answer(before=None)
        return outcome

    async def _question(self, text: str) -> None:
        session = self._session
        before = (session.chat, session.waiting)
        session.ask(text)
        await self._answer(before)

    async def _answer(self, before: tuple[Chat, tuple[ChatImage, ...]] | None) -> None:
        """Answers the last question; puts things back as they were `before` it if it can never be answered."""
        session, view = self._session, self._view
        first = len(session.questions) == 1
        result = await self._written()
        taken_back = before is not None and not result.turn.text and is_at_fault(result.error)
        if before is not None and taken_back:
            session.chat, session.waiting = before
        else:
            session.chat = session.chat.answered(result.turn)
        if result.error is not None:
            view.error(str(result.error), remedy(result.error, first=first, taken_back=taken_back))
        elif result.stopped:
            self._say("Stopped.")
        else:
            view.figures(result.turn.figures, limit_reached(result.turn.figures, session.settings))

    async def _written(self) -> Result:
        session = self._session
        try:
            await self._find_model()
        except Interrupted:
            return Result(Turn("assistant", ""), stopped=True)
        except LlavaError as error:
            return Result(Turn("assistant", "", error=str(error)), error)
        with quiet_keyboard():
            return await show_answer(session.source, session.chat, session.model, session.settings, self._view.answer())

    async def _find_model(self) -> None:
        """Looks again for a model where none was served yet.

        Raises:
            NoWorker: there is still none.
        """
        session = self._session
        if session.model:
            return
        names = await interruptible(session.source.models())
        if not names:
            raise NoWorker(no_model(session.address))
        session.model = names[0]
