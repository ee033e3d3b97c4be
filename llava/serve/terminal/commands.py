"""Runs the commands of the chat: lines that begin with `/`."""

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
from llava.serve.client.answer_settings import SETTINGS
from llava.serve.client.conversation import Chat, as_sentence
from llava.serve.client.images import ChatImage, read_image
from llava.serve.terminal import files
from llava.serve.terminal.session import Session
from llava.serve.terminal.set_command import changed, described

Completes = Literal["image", "file", "setting", "model", "nothing"]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What remains to be done after a command."""

    text: str = ""
    """Text to print."""
    images: tuple[ChatImage, ...] = ()
    """Images to show."""
    conversation: Chat | None = None
    """Conversation to show."""
    ask: bool = False
    """Whether the last question is to be answered."""
    prefill: str = ""
    """Text for the next prompt, to be edited."""
    leave: bool = False
    """Whether the chat ends."""


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """A command of the chat."""

    run: Callable[[Session, str], Awaitable[CommandResult]]
    argument: str
    """Its argument, as /help shows it."""
    summary: str
    """What it does, for /help."""
    completes: Completes = "nothing"
    """What Tab completes after it."""


async def run_command(session: Session, line: str) -> CommandResult:
    """Runs one command.

    Raises:
        LlavaError: there is no such command, or it fails. Nothing has changed, except that no question is being edited.
        OSError: a file cannot be read or written.
    """
    word, _, argument = line.strip().partition(" ")
    name = word.lstrip("/!").lower()
    name = _ALIASES.get(name, name)
    if name not in COMMANDS:
        close = get_close_matches(name, [*COMMANDS, *_ALIASES], n=1)
        hint = f"Did you mean /{close[0]}?" if close else "/help lists the commands."
        raise InvalidRequest(f"there is no command {word}. {hint} To ask it as a question, begin with a space.")
    session.editing = None
    return await COMMANDS[name].run(session, argument.strip())


def as_command(line: str) -> str | None:
    """Returns the command in a line; None if the line is a question.

    A line that is only the path of a file adds the image: a terminal pastes the path of a file that is dropped on it.
    FastChat's `!!` words are commands, too.
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
    """The words of a text, split as a shell does; at spaces if a quote is not closed."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _path(text: str) -> Path:
    """The path in a text, with or without quotes."""
    words = _words(text)
    return Path(words[0] if len(words) == 1 else text).expanduser()


# Images


async def _image(session: Session, argument: str) -> CommandResult:
    if not argument:
        raise InvalidRequest("no image given. Write /image PATH or /image URL.")
    names = [argument] if Path(argument).expanduser().is_file() else _words(argument)
    images = tuple([await asyncio.to_thread(open_image, name) for name in names])
    session.waiting += images
    count = len(session.waiting)
    sent = "It is sent" if count == 1 else f"{count} images are sent"
    return CommandResult(f"Added {', '.join(map(_described, images))}. {sent} with the next question.", images)


def open_image(name: str) -> ChatImage:
    """Reads an image from a path, a data URI or a URL.

    Raises:
        ImageError: the image cannot be read.
    """
    is_address = re.match(r"(https?:|data:)", name)
    return read_image(name if is_address else Path(name).expanduser(), allow_url=True)


async def _images(session: Session, argument: str) -> CommandResult:
    if not session.images:
        return CommandResult("There are no images yet. /image PATH adds one.")
    places = [
        f"in question {number}"
        for number, index in enumerate(session.questions, 1)
        for _ in session.chat.turns[index].images
    ]
    places += ["for the next question"] * len(session.waiting)
    rows = [
        (str(number), _described(image), place)
        for number, (image, place) in enumerate(zip(session.images, places, strict=True), 1)
    ]
    return CommandResult(table(rows))


async def _drop(session: Session, argument: str) -> CommandResult:
    if argument == "all":
        count, session.waiting = len(session.waiting), ()
        return CommandResult(f"Removed {_count(count, 'image')} for the next question.")
    number = _number(argument, "image") if argument else len(session.images)
    return CommandResult(f"Removed {_described(session.drop(number))}.")


def _described(image: ChatImage) -> str:
    width, height = image.decode().size
    return f"{image.name or 'image'} ({width} × {height})"


def _number(text: str, what: str) -> int:
    if not text.isdecimal():
        raise InvalidRequest(f"{text!r} is not the number of a {what}.")
    return int(text)


# The conversation


async def _retry(session: Session, argument: str) -> CommandResult:
    session.ask_again()
    return CommandResult(ask=True)


async def _undo(session: Session, argument: str) -> CommandResult:
    turn = session.undo()
    images = f" and its {_count(len(turn.images), 'image')}" if turn.images else ""
    return CommandResult(f"Removed question {len(session.questions) + 1}{images}.")


async def _edit(session: Session, argument: str) -> CommandResult:
    if not session.questions:
        raise InvalidRequest("there is no question to edit yet.")
    number = _number(argument, "question") if argument else len(session.questions)
    if not 1 <= number <= len(session.questions):
        raise InvalidRequest(f"there is no question {number}; the last one is {len(session.questions)}.")
    session.editing = session.questions[number - 1]
    return CommandResult(
        f"Editing question {number}. Enter asks it again and removes everything after it; Ctrl-C cancels.",
        prefill=session.chat.turns[session.editing].text,
    )


async def _system(session: Session, argument: str) -> CommandResult:
    if argument:
        session.chat = dataclasses.replace(session.chat, system="" if argument == "-" else argument)
    return CommandResult(f"System prompt: {session.chat.system or 'the model’s own'}")


async def _clear(session: Session, argument: str) -> CommandResult:
    session.begin(Chat(system=session.chat.system))
    return CommandResult("Started a new conversation. Settings and system prompt are unchanged.")


# Settings and models


async def _set(session: Session, argument: str) -> CommandResult:
    settings = session.settings
    assignments = re.findall(r"\S+", re.sub(r"\s*=\s*", "=", argument)) if "=" in argument else [argument]
    for assignment in assignments if argument else ():
        settings = changed(settings, assignment)
    session.settings = settings
    return CommandResult(table(described(settings)))


async def _model(session: Session, argument: str) -> CommandResult:
    names = await session.source.models()
    if argument:
        if argument not in names:
            raise ModelNotFound(argument, names)
        session.model = argument
        return CommandResult(f"{argument} answers from now on.")
    lines = [f"{'*' if name == session.model else ' '} {name}" for name in names]
    return CommandResult("\n".join(lines) or as_sentence(no_model(session.address)))


def no_model(address: str) -> str:
    """Returns what to do about a server without models."""
    return (
        "no model is being served yet. Start one with `python -m llava.serve.model_worker --controller "
        f"{address} --model-path MODEL`, then ask again."
    )


# Files


async def _save(session: Session, argument: str) -> CommandResult:
    path = _path(argument) if argument else session.file or files.new_name(".json")
    await asyncio.to_thread(files.save, session.chat, path)
    session.file = path
    return CommandResult(f"Saved to {path}.")


async def _export(session: Session, argument: str) -> CommandResult:
    path = _path(argument) if argument else files.new_name(".md")
    if not path.suffix:
        path = path.with_suffix(".md")
    await asyncio.to_thread(files.save, session.chat, path)
    return CommandResult(f"Exported to {path}.")


async def _load(session: Session, argument: str) -> CommandResult:
    if not argument:
        raise InvalidRequest("no file given. Write /load FILE.")
    path = _path(argument)
    chat = await asyncio.to_thread(files.load, path)
    session.begin(chat, path)
    return CommandResult(f"Loaded {_count(len(session.questions), 'question')} from {path}.", conversation=chat)


# The program


async def _help(session: Session, argument: str) -> CommandResult:
    rows = [(f"/{name} {command.argument}".rstrip(), command.summary) for name, command in COMMANDS.items()]
    return CommandResult(f"{table(rows)}\n\n{_KEYS}")


async def _quit(session: Session, argument: str) -> CommandResult:
    return CommandResult(leave=True)


_KEYS: Final = """\
Enter sends, Alt-Enter starts a new line, Up and Down recall earlier lines, Tab completes.
Ctrl-C stops an answer, Ctrl-D quits. To add an image, you can also drop its file on the terminal."""

COMMANDS: Final[dict[str, SlashCommand]] = {
    "image": SlashCommand(_image, "PATH ...", "add images to the next question", "image"),
    "images": SlashCommand(_images, "", "list the images"),
    "drop": SlashCommand(_drop, "[N | all]", "remove image N (default: the last), or all images for the next question"),
    "retry": SlashCommand(_retry, "", "answer the last question again"),
    "edit": SlashCommand(_edit, "[N]", "edit question N (default: the last) and ask it again"),
    "undo": SlashCommand(_undo, "", "remove the last question and its answer"),
    "clear": SlashCommand(_clear, "", "start a new conversation"),
    "system": SlashCommand(_system, "[TEXT | -]", "show or set the system prompt; - restores the model's own"),
    "set": SlashCommand(_set, "[NAME=VALUE ...]", f"show or change settings: {', '.join(SETTINGS)}", "setting"),
    "model": SlashCommand(_model, "[NAME]", "list the models, or switch to one", "model"),
    "save": SlashCommand(_save, "[FILE]", "save the conversation as JSON, or as Markdown if FILE ends in .md", "file"),
    "load": SlashCommand(_load, "FILE", "continue a saved conversation", "file"),
    "export": SlashCommand(_export, "[FILE]", "export the conversation as Markdown", "file"),
    "help": SlashCommand(_help, "", "show this help"),
    "quit": SlashCommand(_quit, "", "quit the chat"),
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
    """Returns rows of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
