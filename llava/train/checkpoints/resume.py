"""Finds the checkpoint to resume from: the latest complete one that the same run wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llava.errors import CheckpointError, InvalidRequest

RUN_FILE = "llava_run.json"
STATE_FILE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")

Identity = dict[str, Any]
"""The settings that identify a run: model, data, stage and seed. Lengths and intervals may change on resuming."""


def find_checkpoint(output_dir: str | Path, identity: Identity) -> Path | None:
    """Returns the latest complete checkpoint of this run in `output_dir`, or None if there is none.

    Checkpoints without a complete trainer state are skipped, because writing them was interrupted.

    Raises:
        InvalidRequest: the checkpoint belongs to another run. Resuming would mix two models, and starting over would
            delete it.
    """
    candidates = sorted(_checkpoints(Path(output_dir)), reverse=True)
    for _, folder in candidates:
        if not is_complete(folder):
            continue
        difference = _difference(folder, identity)
        if difference:
            raise InvalidRequest(
                f"{folder} is a checkpoint of another run ({difference}). Choose another --output_dir, name the "
                "checkpoint with --resume_from_checkpoint, or start over with --resume_from_checkpoint False."
            )
        return folder
    return None


def is_complete(folder: Path) -> bool:
    """Tells whether a checkpoint is complete: its trainer state is written last."""
    try:
        json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def named_checkpoint(path: str) -> Path:
    """Returns the folder of a checkpoint that the user named.

    Raises:
        CheckpointError: the folder does not exist, or the checkpoint is incomplete.
    """
    folder = Path(path)
    if not is_complete(folder):
        raise CheckpointError(f"{folder}: not a complete checkpoint; {STATE_FILE} is missing or cut off.")
    return folder


def write_identity(folder: Path, identity: Identity) -> None:
    """Records the run that a checkpoint belongs to."""
    (folder / RUN_FILE).write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = [(_CHECKPOINT.fullmatch(child.name), child) for child in folder.iterdir() if child.is_dir()]
    return [(int(match.group(1)), child) for match, child in found if match]


def _difference(folder: Path, identity: Identity) -> str:
    try:
        saved = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{RUN_FILE} is missing"
    changed = [
        f"{key} was {saved.get(key)!r}, now {value!r}" for key, value in identity.items() if saved.get(key) != value
    ]
    return "; ".join(changed)
