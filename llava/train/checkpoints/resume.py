"""Decides where a run starts: anew, from a checkpoint, or not at all because it is finished."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llava.errors import CheckpointError, InvalidRequest
from llava.train.checkpoints.folders import checkpoints
from llava.train.checkpoints.identity import FINISHED, RUN_FILE, Identity, differences, read_identity

STATE_FILE = "trainer_state.json"
_OFF = ("false", "no", "0")
_ON = ("true", "yes", "1")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts."""

    checkpoint: Path | None = None
    """The checkpoint to resume from; None starts anew."""
    finished_at_step: int | None = None
    """The last step of a run that is finished; there is nothing to do."""

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
        return Start()
    if wanted is not None and answer not in _ON:
        return Start(checkpoint=named_checkpoint(str(wanted), identity))
    finished = _finished(folder, identity)
    if finished is not None:
        return Start(finished_at_step=finished)
    found = find_checkpoint(folder, identity)
    if found is None and wanted is not None:
        raise InvalidRequest(f"--resume_from_checkpoint True: {folder} has no checkpoint of this run.")
    return Start(checkpoint=found)


def _finished(folder: Path, identity: Identity) -> int | None:
    saved = read_identity(folder)
    if saved is None or FINISHED not in saved:
        return None
    _refuse_another_run(folder, saved, identity, "the result")
    # With a constant learning rate a run may be prolonged; its last checkpoint is then not the end.
    longer = any(saved.get(name) != identity.get(name) for name in ("num_train_epochs", "max_steps"))
    return None if longer else int(saved[FINISHED])


def find_checkpoint(output_dir: str | Path, identity: Identity) -> Path | None:
    """Returns the latest complete checkpoint of this run in `output_dir`, or None if there is none.

    Raises:
        InvalidRequest: the checkpoint belongs to another run.
    """
    for _, folder in reversed(checkpoints(Path(output_dir))):
        if not is_complete(folder):
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


def is_complete(folder: Path) -> bool:
    """Tells whether a checkpoint is complete; earlier releases could leave some that were cut off, without a state."""
    try:
        json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def named_checkpoint(path: str, identity: Identity) -> Path:
    """Returns the folder of a checkpoint that the user named.

    Raises:
        CheckpointError: the folder does not exist, or the checkpoint is incomplete.
        InvalidRequest: it has another number of samples per step, so that the position in the data would be wrong.
    """
    folder = Path(path)
    if not is_complete(folder):
        raise CheckpointError(f"{folder}: not a complete checkpoint; {STATE_FILE} is missing or cut off.")
    saved = read_identity(folder) or {}
    if changed := [text for text in differences(saved, identity) if "samples (batch size" in text]:
        raise InvalidRequest(f"{folder}: cannot be resumed, because {changed[0]}. Restore the earlier product.")
    return folder


def describe_finished(start: Start, output_dir: str) -> str:
    """Describes a finished run in one line."""
    step = start.finished_at_step
    return (
        f"already finished (step {step} of {step}); saved in {output_dir}. Use another --output_dir, or "
        "--resume_from_checkpoint False to start over."
    )


def unmark_finished(output_dir: Path) -> None:
    """Forgets that a result in the folder was finished, before a run that will replace it starts."""
    saved = read_identity(output_dir)
    if saved is not None and FINISHED in saved:
        (output_dir / RUN_FILE).unlink()
