"""What a line that begins with `/` does."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shlex
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal

from llava.errors import InvalidRequest, ModelNotFound
from llava.serve.client.conversation import Chat
from llava.serve.client.images import ChatImage, read_image
from llava.serve.client.wording import sentence
from llava.serve.terminal import files
from llava.serve.terminal.session import Session
from llava.serve.terminal.settings import changed, described

Completes = Literal["image", "file", "setting", "model", "nothing"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left to do when a command has done its part."""

    text: str = ""
    """To be said."""
    images: tuple[ChatImage, ...] = ()
    """To be shown."""
    conversation: Chat | None = None
    """To be shown."""
    ask: bool = False
    """The last question is to be answered."""
    prefill: str = ""
    """Stands at the next prompt, to be edited."""
    leave: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    run: Callable[[Session, str], Awaitable[Outcome]]
    argument: str
    """As the help shows it."""
    summary: str
    completes: Completes = "nothing"


async def run_command(session: Session, line: str) -> Outcome:
    """Runs one line.

    Raises:
        LlavaError: no such command, or it cannot be done; nothing has changed but that no question is edited any more.
        OSError: a file that cannot be read or written.
    """
    word, _, argument = line.strip().partition(" ")
    name = word.lstrip("/!").lower()
    name = _ALIASES.get(name, name)
    if name not in COMMANDS:
        close = get_close_matches(name, [*COMMANDS, *_ALIASES], n=1)
        hint = f"Did you mean /{close[0]}?" if close else "/help lists them."
        raise InvalidRequest(f"there is no command {word}. {hint} A question may begin with a space.")
    session.editing = None
    return await COMMANDS[name].run(session, argument.strip())


def as_command(line: str) -> str | None:
    """The command that a line is, or None for a question.

    The path of a file alone, as a terminal pastes one that is dropped on it, adds the image. FastChat's `!!` words
    are commands too.
    """
    text = line.strip()
    if text and "\n" not in text and (path := _dropped(text)) is not None:
        return f"/image {path}"
    if line.startswith("/"):
        return text
    if line.startswith("!!") and text[2:].partition(" ")[0] in _FASTCHAT:
        return text
    return None


def _dropped(text: str) -> str | None:
    if text.startswith("file://"):
        words = [urllib.parse.unquote(urllib.parse.urlsplit(text).path)]
    elif text.startswith(("/", "'", '"')):
        words = _words(text)
    else:
        return None
    return shlex.quote(words[0]) if len(words) == 1 and Path(words[0]).is_file() else None


def _words(text: str) -> list[str]:
    """As a shell splits them; a text with a quote that is never closed, at its spaces."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _path(text: str) -> Path:
    """One path, with or without quotes."""
    words = _words(text)
    return Path(words[0] if len(words) == 1 else text).expanduser()


# Images


async def _image(session: Session, argument: str) -> Outcome:
    if not argument:
        raise InvalidRequest("say which image: /image PATH, or an address.")
    names = [argument] if Path(argument).expanduser().is_file() else _words(argument)
    images = tuple([await asyncio.to_thread(open_image, name) for name in names])
    session.waiting += images
    count = len(session.waiting)
    goes = "it goes" if count == 1 else f"{count} images go"
    return Outcome(f"{', '.join(map(_described, images))}: {goes} with the next question.", images)


def open_image(name: str) -> ChatImage:
    """Reads the image of a path, a data URI or an address.

    Raises:
        ImageError: it cannot be read; says why.
    """
    is_address = re.match(r"(https?:|data:)", name)
    return read_image(name if is_address else Path(name).expanduser(), allow_url=True)


async def _images(session: Session, argument: str) -> Outcome:
    if not session.images:
        return Outcome("No images yet. /image PATH adds one.")
    places = [
        f"in question {number}"
        for number, index in enumerate(session.questions, 1)
        for _ in session.chat.turns[index].images
    ]
    places += ["waits for the next question"] * len(session.waiting)
    rows = [
        (str(number), _described(image), place)
        for number, (image, place) in enumerate(zip(session.images, places, strict=True), 1)
    ]
    return Outcome(table(rows))


async def _drop(session: Session, argument: str) -> Outcome:
    if argument == "all":
        count, session.waiting = len(session.waiting), ()
        return Outcome(f"Dropped: {_count(count, 'image')} that waited.")
    number = _number(argument, "image") if argument else len(session.images)
    return Outcome(f"{_described(session.drop(number))} is dropped.")


def _described(image: ChatImage) -> str:
    width, height = image.decode().size
    return f"{image.name or 'image'} ({width} × {height})"


def _number(text: str, what: str) -> int:
    if not text.isdecimal():
        raise InvalidRequest(f"{text!r} is no number of a {what}.")
    return int(text)


# The conversation


async def _retry(session: Session, argument: str) -> Outcome:
    session.ask_again()
    return Outcome(ask=True)


async def _undo(session: Session, argument: str) -> Outcome:
    turn = session.undo()
    images = f" and its {_count(len(turn.images), 'image')}" if turn.images else ""
    return Outcome(f"Question {len(session.questions) + 1}{images} taken back.")


async def _edit(session: Session, argument: str) -> Outcome:
    if not session.questions:
        raise InvalidRequest("nothing was asked yet, so there is nothing to edit.")
    number = _number(argument, "question") if argument else len(session.questions)
    if not 1 <= number <= len(session.questions):
        raise InvalidRequest(f"there is no question {number}; there are {len(session.questions)}.")
    session.editing = session.questions[number - 1]
    return Outcome(
        f"Question {number}: Enter asks it anew, and what came after it goes. Ctrl-C leaves it as it was.",
        prefill=session.chat.turns[session.editing].text,
    )


async def _system(session: Session, argument: str) -> Outcome:
    if argument:
        session.chat = dataclasses.replace(session.chat, system="" if argument == "-" else argument)
    return Outcome(f"System prompt: {session.chat.system or 'the model’s own'}")


async def _clear(session: Session, argument: str) -> Outcome:
    session.begin(Chat(system=session.chat.system))
    return Outcome("A new conversation. Settings and system prompt stay.")


# Settings and models


async def _set(session: Session, argument: str) -> Outcome:
    settings = session.settings
    assignments = re.findall(r"\S+", re.sub(r"\s*=\s*", "=", argument)) if "=" in argument else [argument]
    for assignment in assignments if argument else ():
        settings = changed(settings, assignment)
    session.settings = settings
    return Outcome(table(described(settings)))


async def _model(session: Session, argument: str) -> Outcome:
    names = await session.source.models()
    if argument:
        if argument not in names:
            raise ModelNotFound(argument, names)
        session.model = argument
        return Outcome(f"{argument} answers from here on.")
    lines = [f"{'*' if name == session.model else ' '} {name}" for name in names]
    return Outcome("\n".join(lines) or sentence(no_model(session.address)))


def no_model(address: str) -> str:
    """What to do about a server without any model."""
    return (
        "no model is served yet. Start one with `python -m llava.serve.model_worker --controller "
        f"{address} --model-path MODEL`; the next question finds it."
    )


# Files


async def _save(session: Session, argument: str) -> Outcome:
    path = _path(argument) if argument else session.file or files.new_name(".json")
    await asyncio.to_thread(files.save, session.chat, path)
    session.file = path
    return Outcome(f"Saved: {path}")


async def _export(session: Session, argument: str) -> Outcome:
    path = _path(argument) if argument else files.new_name(".md")
    if not path.suffix:
        path = path.with_suffix(".md")
    await asyncio.to_thread(files.save, session.chat, path)
    return Outcome(f"Written: {path}")


async def _load(session: Session, argument: str) -> Outcome:
    if not argument:
        raise InvalidRequest("say which conversation: /load FILE.")
    path = _path(argument)
    chat = await asyncio.to_thread(files.load, path)
    session.begin(chat, path)
    return Outcome(f"{_count(len(session.questions), 'question')} loaded from {path}.", conversation=chat)


# The program


async def _help(session: Session, argument: str) -> Outcome:
    rows = [(f"/{name} {command.argument}".rstrip(), command.summary) for name, command in COMMANDS.items()]
    return Outcome(f"{table(rows)}\n\n{_KEYS}")


async def _quit(session: Session, argument: str) -> Outcome:
    return Outcome(leave=True)


_KEYS: Final = """\
Enter sends, Alt-Enter begins a new line, Up and Down go through earlier lines, Tab completes.
Ctrl-C stops an answer, Ctrl-D leaves. A file that is dropped on the terminal is added as an image."""

COMMANDS: Final[dict[str, Command]] = {
    "image": Command(_image, "PATH ...", "add images to the next question", "image"),
    "images": Command(_images, "", "list the images"),
    "drop": Command(_drop, "[N | all]", "take image N out (the last one), or all that wait"),
    "retry": Command(_retry, "", "answer the last question again"),
    "edit": Command(_edit, "[N]", "change question N (the last one) and ask it anew"),
    "undo": Command(_undo, "", "take the last question and its answer back"),
    "clear": Command(_clear, "", "begin a new conversation"),
    "system": Command(_system, "[TEXT | -]", "show or set the system prompt; - is the model's own"),
    "set": Command(_set, "[NAME=VALUE ...]", "show or change temperature, top_p, max_tokens, seed, shape", "setting"),
    "model": Command(_model, "[NAME]", "list the models, or choose one", "model"),
    "save": Command(_save, "[FILE]", "save the conversation, as JSON or (.md) Markdown", "file"),
    "load": Command(_load, "FILE", "go on with a saved conversation", "file"),
    "export": Command(_export, "[FILE]", "write the conversation as Markdown to read", "file"),
    "help": Command(_help, "", "show this"),
    "quit": Command(_quit, "", "leave"),
}

_FASTCHAT: Final = {
    "exit": "quit",
    "reset": "clear",
    "remove": "undo",
    "regen": "retry",
    "save": "save",
    "load": "load",
}
_ALIASES: Final = {
    **_FASTCHAT,
    "models": "model",
    "images": "images",
    "image": "image",
    "new": "clear",
    "?": "help",
}


# Words


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of text, their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
