"""A file of answers that grows while they are made, and that a later run goes on with.

A killed process loses no answer that was finished; at the end the lines are put into the order of the questions.
Several processes of one run may write into one file. A line says with which model and settings it was made: answers
of different runs never mix.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from llava.errors import DataError, InvalidRequest
from llava.eval.data.questions import Key, Question, key_of, note
from llava.eval.data.records import some
from llava.files.json_files import Line, read_jsonl, write_jsonl
from llava.files.jsonl_log import JsonlLog


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
            DataError: another run writes into the file.
        """
        self.path = Path(path).expanduser()
        self._settings = settings
        self._shared = shared
        if shared and overwrite:
            raise InvalidRequest("--overwrite is for a single process. Remove the file, then start them.")
        self._log = JsonlLog(self.path, shared=shared)
        if overwrite:
            self._log.clear()

    def __enter__(self) -> AnswersFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._log.close()

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
        self._log.append({**record, **self._settings})

    def finish(self, questions: Sequence[Question]) -> None:
        """Puts the answers into the order of the questions; of several processes, the last one does."""
        if self._shared and not self._log.take_over():
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
