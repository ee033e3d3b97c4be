"""Completes commands, and what comes after a command, when Tab is pressed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from llava.images.formats import FILE_SUFFIXES
from llava.serve.client.answer_settings import SETTINGS
from llava.serve.terminal.commands import COMMANDS

_IMAGES: Final = frozenset(FILE_SUFFIXES)


def _is_image(path: str) -> bool:
    return Path(path).is_dir() or Path(path).suffix.lower() in _IMAGES


class ChatCompleter(Completer):
    """Completes lines that begin with `/`, but not questions."""

    def __init__(self, models: Callable[[], Sequence[str]]):
        """
        Args:
            models: returns the names of the served models.
        """
        self._models = models
        self._images = PathCompleter(expanduser=True, file_filter=_is_image)
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line:
            return
        word, space, argument = line.partition(" ")
        if not space:
            yield from _commands(word[1:].lower())
            return
        command = COMMANDS.get(word[1:].lower())
        if command is None:
            return
        if command.completes in ("image", "file"):
            paths = self._images if command.completes == "image" else self._files
            # Several images may follow each other.
            last = argument.rpartition(" ")[2] if command.completes == "image" else argument
            yield from map(_into_folder, paths.get_completions(Document(last), complete_event))
        elif command.completes == "setting":
            yield from _beginning(argument.rpartition(" ")[2], [f"{name}=" for name in SETTINGS])
        elif command.completes == "model":
            yield from _beginning(argument, self._models())


def _into_folder(completion: Completion) -> Completion:
    """A folder with the slash that the menu shows, so that the next Tab completes inside it."""
    slash = "/" if completion.display_text.endswith("/") else ""
    return Completion(completion.text + slash, completion.start_position, display=completion.display)


def _commands(begin: str) -> Iterable[Completion]:
    for name, command in COMMANDS.items():
        if name.startswith(begin):
            ending = " " if command.argument else ""
            yield Completion(name + ending, -len(begin), display=f"/{name}", display_meta=command.summary)


def _beginning(begin: str, names: Iterable[str]) -> Iterable[Completion]:
    return (Completion(name, -len(begin)) for name in names if name.startswith(begin))
