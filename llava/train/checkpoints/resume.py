"""Which checkpoint a run may go on from: only a complete one that this very run wrote."""

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
"""What makes two commands the same run: model, data, stage, seed. Lengths and intervals may change between them."""


def find_checkpoint(output_dir: str | Path, identity: Identity) -> Path | None:
    """The newest complete checkpoint of this run in `output_dir`, or None where there is no checkpoint at all.

    A checkpoint that was cut short (no complete trainer state) is passed over.

    Raises:
        InvalidRequest: the folder holds checkpoints of another run: going on from them would mix two models, and
            starting anew would delete them.
    """
    candidates = sorted(_checkpoints(Path(output_dir)), reverse=True)
    for _, folder in candidates:
        if not is_complete(folder):
            continue
        difference = _difference(folder, identity)
        if difference:
            raise InvalidRequest(
                f"{folder} is a checkpoint of another run ({difference}). Choose another --output_dir, name the "
                "checkpoint with --resume_from_checkpoint, or start anew with --resume_from_checkpoint False."
            )
        return folder
    return None


def is_complete(folder: Path) -> bool:
    """Whether the trainer state, written last, is there and whole."""
    try:
        json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def named_checkpoint(path: str) -> Path:
    """A checkpoint that the user named.

    Raises:
        CheckpointError: no such folder, or not complete.
    """
    folder = Path(path)
    if not is_complete(folder):
        raise CheckpointError(f"{folder}: no complete checkpoint (its {STATE_FILE} is missing or cut short).")
    return folder


def write_identity(folder: Path, identity: Identity) -> None:
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
        return f"it has no {RUN_FILE}"
    changed = [
        f"{key} was {saved.get(key)!r}, now {value!r}" for key, value in identity.items() if saved.get(key) != value
    ]
    return "; ".join(changed)
