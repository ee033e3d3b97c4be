"""A file of answers that grows while they are made, and that a later run goes on with.

Each answer is one line, written by one call, so that a killed process loses none that was finished; at the end the
lines are put into the order of the questions. Several processes of one run may write into one file. A line says with
which model and settings it was made: answers of different runs never mix.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from llava.errors import DataError, InvalidRequest
from llava.eval.questions import Key, Question, key_of, note
from llava.eval.records import some
from llava.json_files import Line, read_jsonl, write_jsonl

_WAIT_S = 30.0
"""How long a process of a larger run waits for another one to put the file in order."""


class AnswersFile:
    """Open it, ask what is answered, append, finish."""

    def __init__(self, path: str | Path, settings: dict[str, Any], *, shared: bool = False, overwrite: bool = False):
        """
        Args:
            path: its folder is made.
            settings: fields that every record of this run has; JSON values.
            shared: other processes of the same run write into the file too.
            overwrite: begin anew, whatever is there.

        Raises:
            InvalidRequest: `path` is a folder, or `overwrite` and `shared` at once.
            DataError: another process writes into the file.
        """
        self.path = Path(path).expanduser()
        self._settings = settings
        self._shared = shared
        if self.path.is_dir():
            raise InvalidRequest(f"{path}: is a folder. Give the name of the file to write.")
        if shared and overwrite:
            raise InvalidRequest("--overwrite is for a single process. Remove the file, then start them.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        if overwrite:
            os.ftruncate(self._file, 0)

    def __enter__(self) -> AnswersFile:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def answered(self, questions: Collection[Question]) -> set[Key]:
        """The questions that have an answer.

        Raises:
            DataError: an answer of another run (its settings, or to what is not asked), or a line that is damaged.
        """
        asked = {question.key for question in questions}
        ids = {key[:2] for key in asked}
        done: set[Key] = set()
        for line in self._lines():
            place = f"{self.path}: line {line.number}"
            key = key_of(line.record, place)
            if key not in asked:
                what = "asked now with another text" if key[:2] in ids else "that is not asked now"
                raise DataError(f"{place} answers a question {what} ({key[0]}). {_OTHER_FILE}")
            self._check_settings(line.record, f"{place} (question {key[0]})")
            done.add(key)
        return done

    def append(self, record: dict[str, Any]) -> None:
        """Adds an answer; once this returns, it is there.

        Raises:
            OSError: it cannot be written; names the file. What was there before is unharmed.
        """
        line = (json.dumps({**record, **self._settings}) + "\n").encode("ascii")
        size = os.fstat(self._file).st_size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            if written and not self._shared:
                os.ftruncate(self._file, size)
            reason = f"cannot be written: {error.strerror}. The answers before this one are in it"
            raise OSError(error.errno or errno.EIO, reason, str(self.path)) from error

    def finish(self, questions: Sequence[Question]) -> None:
        """Puts the answers into the order of the questions; of several processes, the last one does."""
        if self._shared and not _lock(self._file, exclusive=True):
            return
        order = {question.key: number for number, question in enumerate(questions)}
        lines = self._lines()
        kept: dict[Key, dict[str, Any]] = {}
        twice = []
        for line in lines:
            key = key_of(line.record, f"{self.path}: line {line.number}")
            if kept.setdefault(key, line.record) is not line.record:
                twice.append(key[0])
        if twice:
            note(f"{self.path}: answered twice, the first answer kept: {some(twice)}")
        in_order = [kept[key] for key in sorted(kept, key=order.__getitem__)]
        if in_order != [line.record for line in lines]:
            write_jsonl(self.path, in_order)

    def _open(self) -> int:
        deadline = time.monotonic() + (_WAIT_S if self._shared else 0)
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            # Whoever comes first looks at how an earlier run ended; then those of one run write side by side.
            if _lock(file, exclusive=True):
                if self._is_current(file):
                    self._mend(file)
                    if self._shared:
                        _lock(file, exclusive=False)
                    return file
            elif self._shared and _lock(file, exclusive=False) and self._is_current(file):
                return file
            elif time.monotonic() >= deadline:
                os.close(file)
                raise DataError(
                    f"{self.path}: another process is writing answers into it. Let it finish, or give another "
                    "--answers-file."
                )
            os.close(file)
            time.sleep(0.05)

    def _is_current(self, file: int) -> bool:
        """Whether the path still leads to the open file: another process may have replaced it, in order."""
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False

    def _mend(self, file: int) -> None:
        """Removes what is left of a line whose writing was interrupted."""
        content = self.path.read_bytes()
        start = content.rfind(b"\n") + 1
        if start == len(content):
            return
        try:
            json.loads(content[start:])
        except ValueError:
            os.ftruncate(file, start)
            note(f"{self.path}: its last line was cut off; that question is asked again")
        else:
            os.write(file, b"\n")

    def _lines(self) -> list[Line]:
        return read_jsonl(self.path, still_growing=self._shared)

    def _check_settings(self, record: dict[str, Any], place: str) -> None:
        for name, ours in self._settings.items():
            theirs = record.get(name)
            if theirs == ours:
                continue
            if not isinstance(ours, dict):
                raise DataError(f"{place} has the {name} {theirs!r}, this run {ours!r}. {_OTHER_FILE}")
            if not theirs or not isinstance(theirs, dict):
                raise DataError(f"{place} does not say with which settings it was answered. {_OTHER_FILE}")
            differing = next(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
            raise DataError(
                f"{place} was answered with {_setting(differing, theirs)}, this run has {_setting(differing, ours)}. "
                + _OTHER_FILE
            )


_OTHER_FILE = "Give another --answers-file, or --overwrite to answer everything anew."


def _setting(name: str, settings: dict[str, Any]) -> str:
    return f"{name} {json.dumps(settings[name])}" if name in settings else f"no {name}"


def _lock(file: int, *, exclusive: bool) -> bool:
    """Takes a lock that ends with the process; always true where the system has none."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
