"""Keeps the lines that were typed, for Up and Down, in a file that only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from llava.files.json_files import whole_file

KEPT_LINES: Final = 1000
_MAX_BYTES: Final = 4 * 1024 * 1024


def open_history(file: Path | None) -> tuple[History, str]:
    """Returns a history in `file`, or one in memory if `file` is None or cannot be written; and a notice about it."""
    if file is None:
        return InMemoryHistory(), ""
    try:
        return PrivateHistory(file), ""
    except OSError as error:
        return InMemoryHistory(), f"{file}: {error.strerror}. The lines you type are not saved."


class PrivateHistory(FileHistory):
    """A file of mode 0600 with the last `KEPT_LINES` entries; the file and its folder are created if missing.

    Errors of the file are ignored later on: they must not end a conversation.
    """

    def __init__(self, file: Path):
        """
        Raises:
            OSError: the file cannot be written at the start.
        """
        super().__init__(str(file))
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
        file.chmod(0o600)
        if file.stat().st_size > _MAX_BYTES:
            self._shorten(file)

    def load_history_strings(self) -> Iterable[str]:
        try:
            entries = list(super().load_history_strings())
        except OSError:
            return []
        return entries[:KEPT_LINES]  # the newest come first

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError:
            return

    def _shorten(self, file: Path) -> None:
        newest = list(self.load_history_strings())
        with whole_file(file) as temporary:
            temporary.touch(mode=0o600)
            short = FileHistory(str(temporary))
            for entry in reversed(newest):
                short.store_string(entry)
