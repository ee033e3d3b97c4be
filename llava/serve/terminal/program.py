"""Runs `llava chat`: a chat at a prompt, or the answer to one question."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from llava import __version__
from llava.command_line import DONE
from llava.errors import InvalidRequest, NoWorker
from llava.serve.client.conversation import Chat, as_sentence
from llava.serve.client.images import ChatImage, read_image
from llava.serve.terminal import files, model_source, one_shot
from llava.serve.terminal.capabilities import choose_graphics, quiet_keyboard
from llava.serve.terminal.clean_text import well_formed
from llava.serve.terminal.commands import no_model, open_image
from llava.serve.terminal.session import Session
from llava.serve.terminal.settings import ChatSettings
from llava.serve.terminal.view import View, make_console

OpenedSource = tuple[model_source.ChatServer | model_source.LocalModelSource, str]
"""What answers, and a notice about it. A model of this process is loaded by then."""

_STDIN: Final = "-"
_MAX_IMAGE_BYTES: Final = 64 * 1024 * 1024
_MAX_QUESTION_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class ChatInputs:
    """What a chat starts with."""

    chat: Chat
    """The conversation to continue; empty for a new one."""
    images: tuple[ChatImage, ...]
    """Images for the first question."""


@dataclass(frozen=True)
class ReadyChat:
    """A chat that is ready for its first question."""

    session: Session
    models: list[str]
    """All models that are served."""
    notice: str
    """A line about the model; may be empty."""


def run_chat(settings: ChatSettings) -> int:
    """Runs the command; returns its exit code.

    Raises:
        LlavaError: the settings, an image, a file or the model do not allow a chat.
    """
    asks_once = settings.question is not None or settings.output == "json" or not sys.stdin.isatty()
    if not asks_once and not sys.stdout.isatty():
        raise InvalidRequest("a chat needs a terminal, but standard output is not one. Give a question instead.")
    # All inputs are checked before a model is loaded.
    inputs = _read_inputs(settings)
    if asks_once:
        question = _read_question(settings)
        return asyncio.run(_ask_once(settings, inputs, _open_source(settings), question))
    console = make_console()
    # Before the model is loaded: the terminal's reply must not be mixed with what is typed meanwhile.
    view = View(console, choose_graphics(console) if settings.thumbnails == "auto" else settings.thumbnails)
    with quiet_keyboard():
        source = _open_source(settings)
    return asyncio.run(_converse(settings, inputs, source, view))


# Inputs


def _read_inputs(settings: ChatSettings) -> ChatInputs:
    num_piped = settings.image_files.count(_STDIN)
    if num_piped > 1 or (num_piped and settings.question is None):
        raise InvalidRequest("-i -: standard input can hold one image; give the question as an argument.")
    chat = files.load(settings.conversation) if settings.conversation else Chat()
    if settings.system is not None:
        chat = Chat(chat.turns, well_formed(settings.system))
    return ChatInputs(chat, tuple(_read_image(name) for name in settings.image_files))


def _read_image(name: str) -> ChatImage:
    if name != _STDIN:
        return open_image(name)
    data = sys.stdin.buffer.read(_MAX_IMAGE_BYTES + 1)
    if not data:
        raise InvalidRequest("-i -: standard input is empty; expected an image.")
    return read_image(data, name="standard input")


def _read_question(settings: ChatSettings) -> str:
    if settings.question is not None:
        return well_formed(settings.question)
    data = sys.stdin.buffer.read(_MAX_QUESTION_BYTES + 1)
    if len(data) > _MAX_QUESTION_BYTES:
        raise InvalidRequest(f"the question on standard input is longer than {_MAX_QUESTION_BYTES >> 20} MiB.")
    try:
        return well_formed(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"standard input is not UTF-8 text (byte {error.start}). If it is an image, add `-i -`."
        ) from error


# What answers


def _open_source(settings: ChatSettings) -> OpenedSource:
    if settings.server:
        return model_source.server(settings), ""
    return model_source.local_model(settings)


@asynccontextmanager
async def _started(settings: ChatSettings, inputs: ChatInputs, opened: OpenedSource) -> AsyncIterator[ReadyChat]:
    source, notice = opened
    try:
        if isinstance(source, model_source.LocalModelSource):
            await source.start()
            wanted, address = None, ""
        else:
            wanted, address = settings.model, source.address
        model, names = await model_source.choose_model(source, wanted)
        session = Session(source, model, address, settings.answer, inputs.chat, inputs.images)
        yield ReadyChat(session, names, notice)
    finally:
        await source.close()


# The two ways to chat


async def _ask_once(settings: ChatSettings, inputs: ChatInputs, opened: OpenedSource, question: str) -> int:
    async with _started(settings, inputs, opened) as ready:
        if ready.notice:
            print(ready.notice, file=sys.stderr)
        if not ready.session.model:
            raise NoWorker(no_model(ready.session.address))
        # A model may write characters that the locale cannot encode.
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        if settings.output == "json":
            write = one_shot.write_json
        elif settings.output == "auto" and sys.stdout.isatty():
            write = one_shot.write_markdown
        else:
            write = one_shot.write_plain
        return await one_shot.ask_once(ready.session, question, write)


async def _converse(settings: ChatSettings, inputs: ChatInputs, opened: OpenedSource, view: View) -> int:
    # prompt_toolkit takes a while to import, and only a chat at a prompt needs it.
    from llava.serve.terminal.completion import ChatCompleter
    from llava.serve.terminal.conversation_loop import ConversationLoop
    from llava.serve.terminal.history import open_history
    from llava.serve.terminal.prompt import InputPrompt

    history, problem = open_history(settings.history)
    async with _started(settings, inputs, opened) as ready:
        session = ready.session
        for line in (_title(session), ready.notice, _others(ready), problem):
            if line:
                view.note(line)
        view.space()
        view.conversation(session.chat)
        for image in session.waiting:
            view.image(image)
        prompt = InputPrompt(
            completer=ChatCompleter(lambda: ready.models), history=history, toolbar=lambda: _toolbar(session)
        )
        await ConversationLoop(session, prompt, view).run()
    return DONE


def _title(session: Session) -> str:
    model = session.model or "no model"
    place = f" at {session.address}" if session.address else ""
    return f"LLaVA {__version__} · {model}{place}\n/image PATH adds an image, /help lists the commands, Ctrl-D quits."


def _others(ready: ReadyChat) -> str:
    if not ready.session.model:
        return as_sentence(no_model(ready.session.address))
    others = [name for name in ready.models if name != ready.session.model]
    return f"Also served: {', '.join(others)}. /model NAME switches." if others else ""


def _toolbar(session: Session) -> str:
    settings = session.settings
    return f"{session.model or 'no model'} · temperature {settings.temperature:g} · Alt-Enter: new line · /help"
