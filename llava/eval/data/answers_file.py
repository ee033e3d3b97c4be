"""Writes a file of answers while they are made, and resumes it in a later run.

A killed process loses no finished answer; at the end the lines are sorted into the order of the questions. Several
processes of one run may write to one file. Each line records its model and settings, so that answers of different runs
are never mixed.
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

_OTHER_FILE = "Choose another --answers-file, or pass --overwrite to answer all questions again."


class AnswersFile:
    """The answers of one run: call `answered` once, `append` for each answer, `finish` at the end."""

    def __init__(self, path: str | Path, settings: dict[str, Any], *, shared: bool = False, overwrite: bool = False):
        """
        Args:
            path: the file; its folder is created.
            settings: fields that every record of this run has; JSON values.
            shared: other processes of the same run write to the file too.
            overwrite: delete what the file contains.

        Raises:
            InvalidRequest: `path` is a folder, or both `overwrite` and `shared` are set.
            DataError: another run is writing to the file.
        """
        self.path = Path(path).expanduser()
        self._settings = settings
        self._shared = shared
        if shared and overwrite:
            raise InvalidRequest("--overwrite works with a single process only. Delete the file before you start.")
        self._log = JsonlLog(self.path, shared=shared)
        if overwrite:
            self._log.clear()

    def __enter__(self) -> AnswersFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._log.close()

    def answered(self, questions: Collection[Question]) -> set[Key]:
        """Returns the keys of the questions that have an answer.

        Raises:
            DataError: the file contains an answer from other settings or to another question, or a damaged line.
        """
        asked = {question.key for question in questions}
        ids = {key[:2] for key in asked}
        done: set[Key] = set()
        for line in self._lines():
            place = f"{self.path}: line {line.number}"
            key = key_of(line.record, place)
            if key not in asked:
                what = "whose text has changed" if key[:2] in ids else "that this run does not ask"
                raise DataError(f"{place} answers a question {what} ({key[0]}). {_OTHER_FILE}")
            self._check_settings(line.record, f"{place} (question {key[0]})")
            done.add(key)
        return done

    def append(self, record: dict[str, Any]) -> None:
        """Adds an answer; it is in the file when this returns.

        Raises:
            OSError: the answer cannot be written; names the file. Earlier answers are unharmed.
        """
        self._log.append({**record, **self._settings})

    def finish(self, questions: Sequence[Question]) -> None:
        """Sorts the answers into the order of the questions; of several processes, the last one does this."""
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
            note(f"{self.path}: questions answered twice, of which the first answer is kept: {some(twice)}")
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
                raise DataError(f"{place} has the {name} {theirs!r}, but this run has {ours!r}. {_OTHER_FILE}")
            if not theirs or not isinstance(theirs, dict):
                raise DataError(f"{place} does not record its settings. {_OTHER_FILE}")
            differing = next(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
            raise DataError(
                f"{place} was answered with {_setting(differing, theirs)}, but this run has "
                f"{_setting(differing, ours)}. {_OTHER_FILE}"
            )


def _setting(name: str, settings: dict[str, Any]) -> str:
    return f"{name} {json.dumps(settings[name])}" if name in settings else f"no {name}"
