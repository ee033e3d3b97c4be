"""The command `llava chat`: from its flags to a chat at a prompt, or to one answer."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from llava import __version__
from llava.command_line import DONE
from llava.errors import InvalidRequest, NoWorker
from llava.serve.client.conversation import AnswerSettings, Chat
from llava.serve.client.images import ChatImage, read_image
from llava.serve.client.wording import sentence
from llava.serve.terminal import files, model_source, one_shot
from llava.serve.terminal.capabilities import choose_graphics, quiet_keyboard
from llava.serve.terminal.clean_text import well_formed
from llava.serve.terminal.commands import no_model, open_image
from llava.serve.terminal.completion import ChatCompleter
from llava.serve.terminal.conversation_loop import ConversationLoop
from llava.serve.terminal.history import default_file, open_history
from llava.serve.terminal.prompt import Prompt
from llava.serve.terminal.session import Session
from llava.serve.terminal.settings import checked
from llava.serve.terminal.view import View, make_console

Source = tuple[model_source.ChatServer | model_source.LocalModel, str]
"""Who answers (a model of this process is loaded by then), and a line about it."""

_STDIN: Final = "-"
_MAX_IMAGE_BYTES: Final = 64 * 1024 * 1024
_MAX_QUESTION_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Begin:
    """What a chat begins with."""

    settings: AnswerSettings
    chat: Chat
    images: tuple[ChatImage, ...]


@dataclass(frozen=True)
class Found:
    """Who answers."""

    session: Session
    models: Sequence[str]
    notice: str = ""
    """A line about the model."""


def run_chat(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code.

    Raises:
        LlavaError: flags, images, files or the model do not allow a chat.
    """
    asks_once = args.question is not None or args.json or not sys.stdin.isatty()
    if not asks_once and not sys.stdout.isatty():
        raise InvalidRequest("standard output is no terminal, so there is no place for a prompt. Give a question.")
    # All that can be wrong with the flags is said before a model is loaded.
    begin = _begin(args)
    if asks_once:
        question = _question(args)
        return asyncio.run(_ask_once(args, begin, _source(args), question))
    console = make_console()
    # Before the model is loaded: the terminal's reply must not be mixed with what is typed meanwhile.
    view = View(console, choose_graphics(console) if args.thumbnails == "auto" else args.thumbnails)
    with quiet_keyboard():
        source = _source(args)
    return asyncio.run(_converse(args, begin, source, view))


# Before a model is loaded


def _begin(args: argparse.Namespace) -> Begin:
    settings = checked(AnswerSettings(args.temperature, args.top_p, args.max_new_tokens, args.seed))
    if args.image_file.count(_STDIN) > 1 or (_STDIN in args.image_file and args.question is None):
        raise InvalidRequest("-i -: standard input holds one image; the question is then an argument.")
    chat = files.load(Path(args.load).expanduser()) if args.load else Chat()
    if args.system is not None:
        chat = Chat(chat.turns, well_formed(args.system))
    return Begin(settings, chat, tuple(_image(name) for name in args.image_file))


def _image(name: str) -> ChatImage:
    if name != _STDIN:
        return open_image(name)
    data = sys.stdin.buffer.read(_MAX_IMAGE_BYTES + 1)
    if not data:
        raise InvalidRequest("-i -: nothing came from standard input; an image is expected there.")
    return read_image(data, name="standard input")


def _question(args: argparse.Namespace) -> str:
    if args.question is not None:
        return well_formed(args.question)
    data = sys.stdin.buffer.read(_MAX_QUESTION_BYTES + 1)
    if len(data) > _MAX_QUESTION_BYTES:
        raise InvalidRequest(f"the question on standard input is longer than {_MAX_QUESTION_BYTES >> 20} MiB.")
    try:
        return well_formed(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"standard input: no text in UTF-8 (byte {error.start}). Write `-i -` if it is an image."
        ) from error


# Who answers


def _source(args: argparse.Namespace) -> Source:
    if args.server:
        return model_source.server(args), ""
    with Console(stderr=True).status("Loading the model"):
        return model_source.local_model(args)


@asynccontextmanager
async def _found(args: argparse.Namespace, begin: Begin, source: Source) -> AsyncIterator[Found]:
    answering, notice = source
    try:
        if isinstance(answering, model_source.LocalModel):
            await answering.start()
            wanted, address = None, ""
        else:
            wanted, address = args.model_path, answering.address
        model, names = await model_source.choose_model(answering, wanted)
        session = Session(answering, model, address, begin.settings, begin.chat, begin.images)
        yield Found(session, names, notice)
    finally:
        await answering.close()


# The two ways to chat


async def _ask_once(args: argparse.Namespace, begin: Begin, source: Source, question: str) -> int:
    async with _found(args, begin, source) as found:
        if found.notice:
            print(found.notice, file=sys.stderr)
        if not found.session.model:
            raise NoWorker(no_model(found.session.address))
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a model may write what a locale cannot
        if args.json:
            write = one_shot.write_json
        else:
            write = one_shot.write_markdown if sys.stdout.isatty() and not args.plain else one_shot.write_plain
        return await one_shot.ask_once(found.session, question, write)


async def _converse(args: argparse.Namespace, begin: Begin, source: Source, view: View) -> int:
    history, problem = open_history(_history_file(args))
    async with _found(args, begin, source) as found:
        session = found.session
        for line in (_title(session), found.notice, _others(found), problem):
            if line:
                view.note(line)
        view.space()
        view.conversation(session.chat)
        for image in session.waiting:
            view.image(image)
        prompt = Prompt(
            completer=ChatCompleter(lambda: found.models), history=history, toolbar=lambda: _toolbar(session)
        )
        await ConversationLoop(session, prompt, view).run()
    return DONE


def _history_file(args: argparse.Namespace) -> Path | None:
    if args.no_history:
        return None
    return Path(args.history).expanduser() if args.history else default_file()


def _title(session: Session) -> str:
    who = session.model or "no model"
    place = f" at {session.address}" if session.address else ""
    return f"LLaVA {__version__} · {who}{place}\n/image PATH adds an image, /help lists the commands, Ctrl-D leaves."


def _others(found: Found) -> str:
    if not found.session.model:
        return sentence(no_model(found.session.address))
    others = [name for name in found.models if name != found.session.model]
    return f"Also served: {', '.join(others)}. /model NAME chooses." if others else ""


def _toolbar(session: Session) -> str:
    settings = session.settings
    return f"{session.model or 'no model'} · temperature {settings.temperature:g} · Alt-Enter: new line · /help"
