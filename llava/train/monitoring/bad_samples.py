"""Decides what a bad record does to a run: it stops the run, or it is listed and skipped.

The dataset puts a placeholder in place of a bad record, so by the time that it is known here, nothing has gone wrong
yet: every process learns of it at the same step, and all go on or all stop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from llava.errors import DataError, InvalidRequest
from llava.train.data.dataset import BadSample
from llava.train.monitoring.progress import say

FILE = "bad_samples.jsonl"
POLICIES = ("stop", "skip")


def check_policy(policy: str, maximum: int | None) -> None:
    """
    Raises:
        InvalidRequest: `--on_bad_sample` or `--max_bad_samples` has a value that means nothing.
    """
    if policy not in POLICIES:
        raise InvalidRequest(f"--on_bad_sample {policy}: must be {' or '.join(POLICIES)}.")
    if maximum is not None and maximum < 0:
        raise InvalidRequest(f"--max_bad_samples {maximum}: must be at least 0.")
    if maximum is not None and policy == "stop":
        raise InvalidRequest("--max_bad_samples needs --on_bad_sample skip.")


def known_bad_samples(output_dir: Path) -> set[int]:
    """Returns the positions of the records that a run has skipped until now."""
    try:
        lines = (output_dir / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    known = set()
    for line in lines:
        try:
            known.add(int(json.loads(line)["index"]))
        except (ValueError, KeyError, TypeError):
            continue  # a killed run was writing it; the record will be met again
    return known


class BadSamples:
    """The bad records that a run has met, each once, also over epochs and after it was resumed."""

    def __init__(
        self,
        output_dir: Path,
        *,
        policy: str = "stop",
        maximum: int | None = None,
        writes: bool = True,
        known: set[int] | None = None,
    ) -> None:
        """
        Args:
            output_dir: folder of `bad_samples.jsonl`.
            policy: "stop" or "skip".
            maximum: number of records to skip before the run stops; None for no limit.
            writes: true in the process that writes the file.
            known: positions of records that the run has skipped before; from `known_bad_samples`.
        """
        self._file = output_dir / FILE
        self._policy = policy
        self._maximum = maximum
        self._writes = writes
        self._known = set(known or ())
        self._held_out: set[str] = set()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, samples: Sequence[BadSample], *, step: int) -> None:
        """Adds the bad records of a step, of all processes.

        Raises:
            DataError: the policy is to stop, or there are too many.
        """
        new = {sample.index: sample for sample in samples if sample.index not in self._known}
        if self._policy == "stop":
            self._stop(samples[0])
        if new and self._writes:
            if not self._known:
                first = next(iter(new.values()))
                say(f"skipping {first.name}: {first.reason} It is listed in {self._file}")
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as stream:
                for sample in new.values():
                    entry: dict[str, Any] = {"index": sample.index, "name": sample.name, "images": list(sample.images)}
                    entry |= {"reason": sample.reason, "step": step}
                    stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._known |= set(new)
        if self._maximum is not None and len(self._known) > self._maximum:
            raise DataError(
                f"{len(self._known)} records could not be used, more than --max_bad_samples {self._maximum}. "
                f"They are listed in {self._file}."
            )

    def note_held_out(self, samples: Sequence[BadSample]) -> None:
        """Reports bad records of a validation, of all processes; each once.

        Raises:
            DataError: the policy is to stop.
        """
        if samples and self._policy == "stop":
            self._stop(min(samples, key=lambda sample: sample.index))
        for sample in sorted(samples, key=lambda sample: sample.index):
            if self._writes and sample.name not in self._held_out:
                say(f"validation without {sample.name}: {sample.reason}")
            self._held_out.add(sample.name)

    @staticmethod
    def _stop(sample: BadSample) -> NoReturn:
        raise DataError(
            f"{sample.name}: {sample.reason} Mend or remove the record, or set --on_bad_sample skip; "
            "`llava data check --images` lists all bad images."
        )
