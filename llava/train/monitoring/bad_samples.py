"""Decides what a bad record does to a run: it stops the run, or it is listed and skipped.

The dataset puts a placeholder in place of a bad record, so by the time that it is known here, nothing has gone wrong
yet: every process learns of it at the same step, and all go on or all stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.errors import DataError, InvalidRequest
from llava.files.json_files import read_jsonl, write_jsonl
from llava.files.jsonl_log import JsonlLog
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
    """Returns the positions of the records that a run has skipped until now.

    Raises:
        DataError: `bad_samples.jsonl` is damaged.
    """
    return {int(entry["index"]) for entry in _entries(output_dir / FILE)}


def forget_after(output_dir: Path, step: int) -> None:
    """Removes the records that a run met after a step from its list, because it goes on from there.

    They are listed again when they are met again; by then they may have been repaired.

    Raises:
        DataError: `bad_samples.jsonl` is damaged.
    """
    file = output_dir / FILE
    kept = [entry for entry in _entries(file) if entry.get("step", 0) <= step]
    if kept:
        write_jsonl(file, kept)
    else:
        file.unlink(missing_ok=True)


def _entries(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    # A killed run may have left a line that it was writing; the record will be met again.
    entries = [line.record for line in read_jsonl(file, still_growing=True)]
    for entry in entries:
        if not isinstance(entry.get("index"), int):
            raise DataError(f"{file}: an entry lacks its 'index'. Remove the file to list bad records anew.")
    return entries


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

    @property
    def skips(self) -> bool:
        """Whether bad records are left out; otherwise they stop the run."""
        return self._policy == "skip"

    def __len__(self) -> int:
        return len(self._known)

    def add(self, samples: Sequence[BadSample], *, step: int) -> None:
        """Adds the bad records of a step, of all processes.

        Raises:
            DataError: the policy is to stop, or there are too many.
        """
        if self._policy == "stop" and samples:
            first = samples[0]
            raise DataError(
                f"{first.name}: {first.reason} Mend or remove the record, or set --on_bad_sample skip; "
                "`llava data check --images` lists all bad images."
            )
        new = {sample.index: sample for sample in samples if sample.index not in self._known}
        if new and self._writes:
            self._write(list(new.values()), step)
        self._known |= set(new)
        if self._maximum is not None and len(self._known) > self._maximum:
            raise DataError(
                f"{len(self._known)} records could not be used, more than --max_bad_samples {self._maximum}. "
                f"They are listed in {self._file}."
            )

    def describe(self) -> str:
        """Describes the skipped records in one line."""
        what = "1 bad record was" if len(self) == 1 else f"{len(self)} bad records were"
        return f"{what} skipped; see {self._file}"

    def _write(self, samples: Sequence[BadSample], step: int) -> None:
        if not self._known:
            first = samples[0]
            say(f"skipping {first.name}: {first.reason} It is listed in {self._file}")
        with JsonlLog(self._file) as log:
            for sample in samples:
                log.append(
                    {
                        "index": sample.index,
                        "name": sample.name,
                        "images": list(sample.images),
                        "reason": sample.reason,
                        "step": step,
                    }
                )
