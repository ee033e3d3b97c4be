"""Decides where a run starts: anew, from a checkpoint, or not at all because it is finished."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from llava.errors import CheckpointError, InvalidRequest
from llava.train.checkpoints.folders import checkpoints, damaged_file
from llava.train.checkpoints.identity import (
    FINISHED,
    LENGTH,
    RESULT_FILES,
    RUN_FILE,
    Identity,
    differences,
    read_identity,
    surroundings,
)

STATE_FILE = "trainer_state.json"
SCHEDULER_FILE = "scheduler.pt"
_OFF = ("false", "no", "0")
_ON = ("true", "yes", "1")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts."""

    checkpoint: Path | None = None
    """The checkpoint to resume from; None starts anew."""
    finished_at_step: int | None = None
    """The last step of a run that is finished; there is nothing to do."""
    notes: tuple[str, ...] = ()
    """What the user should know about it, one line each."""

    @property
    def step(self) -> int:
        """The number of steps that the checkpoint has done; 0 for a run that starts anew."""
        if self.checkpoint is None:
            return 0
        return int(json.loads((self.checkpoint / STATE_FILE).read_text(encoding="utf-8"))["global_step"])


def find_start(output_dir: str | Path, identity: Identity, *, wanted: str | None, start_over: bool = False) -> Start:
    """Looks for a finished model or checkpoints of this run in its output folder.

    Args:
        identity: the run, from `run_identity`.
        wanted: `--resume_from_checkpoint`: a folder, "True" to require a checkpoint, "False" to start anew.
        start_over: `--overwrite_output_dir`.

    Raises:
        InvalidRequest: the folder holds another run; the message names each difference. Resuming would mix two models,
            and starting anew would overwrite one.
        CheckpointError: the named checkpoint cannot be used.
    """
    folder, answer = Path(output_dir), str(wanted).lower() if wanted is not None else None
    if start_over or answer in _OFF:
        return _with_notes(Start(), folder, identity)
    if wanted is not None and answer not in _ON:
        _refuse_foreign(folder, identity)
        return _with_notes(Start(checkpoint=named_checkpoint(str(wanted), identity)), folder, identity)
    notes: list[str] = []
    finished = _finished(folder, identity, notes)
    if finished is not None:
        return Start(finished_at_step=finished)
    found = find_checkpoint(folder, identity, notes)
    if found is None and wanted is not None:
        raise InvalidRequest(f"--resume_from_checkpoint True: {folder} has no checkpoint of this run.")
    return _with_notes(Start(checkpoint=found, notes=tuple(notes)), folder, identity)


def _with_notes(start: Start, folder: Path, identity: Identity) -> Start:
    """Adds what is only worth a line: the checkpoints that this start abandons, and other numbers of processes."""
    notes = list(start.notes)
    saved = read_identity(start.checkpoint) if start.checkpoint is not None else None
    if start.checkpoint is not None and saved is None:
        notes.append(f"{start.checkpoint} has no {RUN_FILE}; whether it belongs to this run was not checked")
    notes += surroundings(saved or {}, identity)
    later = [str(path) for step, path in checkpoints(folder) if step > start.step]
    if later:
        notes.append(f"the first checkpoint that is saved will replace {', '.join(later)}")
    return replace(start, notes=tuple(notes))


def _refuse_foreign(folder: Path, identity: Identity) -> None:
    """Refuses an output folder that holds another run, whose checkpoints would be mixed with those of this one."""
    _finished(folder, identity, [])
    find_checkpoint(folder, identity, [])


def _finished(folder: Path, identity: Identity, notes: list[str]) -> int | None:
    saved = read_identity(folder)
    if saved is None:
        return None
    _refuse_another_run(folder, saved, identity, "the result")
    if FINISHED not in saved:
        return None
    missing = [str(folder / name) for name in saved.get(RESULT_FILES, ()) if not (folder / name).exists()]
    if missing:
        notes.append(f"the result is finished, but lacks {missing[0]}; it will be written again")
        return None
    # With a constant learning rate a run may be prolonged; its last checkpoint is then not the end.
    longer = any(saved.get(name) != identity.get(name) for name in LENGTH)
    return None if longer else int(saved[FINISHED])


def find_checkpoint(output_dir: str | Path, identity: Identity, notes: list[str]) -> Path | None:
    """Returns the latest complete checkpoint of this run in `output_dir`, or None if there is none.

    Args:
        notes: gets a line for each checkpoint that is passed over.

    Raises:
        InvalidRequest: the checkpoint belongs to another run.
    """
    for _, folder in reversed(checkpoints(Path(output_dir))):
        if (lacking := flaw(folder)) is not None:
            notes.append(f"{folder} is incomplete and is passed over: {lacking}")
            continue
        _refuse_another_run(folder, read_identity(folder), identity, "a checkpoint")
        return folder
    return None


def _refuse_another_run(folder: Path, saved: Identity | None, identity: Identity, what: str) -> None:
    changed = [f"{RUN_FILE} is missing"] if saved is None else differences(saved, identity)
    if changed:
        raise InvalidRequest(
            f"{folder} is {what} of another run ({'; '.join(changed)}). Choose another --output_dir, or start over "
            "with --resume_from_checkpoint False, which overwrites it."
        )


def flaw(folder: Path) -> str | None:
    """Returns what a checkpoint lacks; None if it is complete."""
    try:
        json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{STATE_FILE} is missing or cut off"
    if (damaged := damaged_file(folder)) is not None:
        return f"{damaged} is missing or cut off"
    if not (folder / SCHEDULER_FILE).is_file():  # the list of files is missing too; a finished model has neither
        return f"{SCHEDULER_FILE} is missing"
    return None


def named_checkpoint(path: str, identity: Identity) -> Path:
    """Returns the folder of a checkpoint that the user named.

    Raises:
        CheckpointError: the folder does not exist, or the checkpoint is incomplete.
        InvalidRequest: the checkpoint belongs to another run; going on would be neither the one nor the other.
    """
    folder = Path(path)
    if (lacking := flaw(folder)) is not None:
        inside = [str(checkpoint) for _, checkpoint in checkpoints(folder)]
        instead = f" Name {' or '.join(inside[-3:])}." if inside else ""
        raise CheckpointError(f"{folder}: not a complete checkpoint; {lacking}.{instead}")
    saved = read_identity(folder)
    if saved is not None and (changed := differences(saved, identity)):
        raise InvalidRequest(
            f"--resume_from_checkpoint {folder}: is of another run ({'; '.join(changed)}). Use the earlier values, or "
            "start a new run without the flag."
        )
    return folder


def describe_finished(start: Start, output_dir: str) -> str:
    """Describes a finished run in one line."""
    step = start.finished_at_step
    return (
        f"already finished (step {step} of {step}); saved in {output_dir}. Use another --output_dir, or "
        "--resume_from_checkpoint False to start over."
    )


def unmark_finished(output_dir: Path) -> None:
    """Forgets whose result the folder holds, before a run that will replace it starts."""
    (output_dir / RUN_FILE).unlink(missing_ok=True)
