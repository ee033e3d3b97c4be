"""Writes the folders of a run so that each appears whole or not at all, even if the process or the machine dies."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llava.errors import InvalidRequest
from llava.files.json_files import write_json

PARTIAL = ".partial"
FILE_LIST = "files.json"
"""File that lists all files of a complete folder with their sizes in bytes."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_TEMPORARY = re.compile(r"(checkpoint-\d+(\.replaced|\.removed)?|result|probe)" + re.escape(PARTIAL))


def checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """Returns the checkpoints of a run, oldest first, each with its step."""
    if not output_dir.is_dir():
        return []
    found = [(_CHECKPOINT.fullmatch(child.name), child) for child in output_dir.iterdir() if child.is_dir()]
    return sorted((int(match[1]), child) for match, child in found if match)


def remove_partial(output_dir: Path) -> None:
    """Removes what a killed run was writing or removing."""
    for child in output_dir.glob(f"*{PARTIAL}") if output_dir.is_dir() else ():
        if _TEMPORARY.fullmatch(child.name):
            shutil.rmtree(child, ignore_errors=True)


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint so that it is gone at once, even if the process dies before all of its files are."""
    removed = checkpoint.with_name(f"{checkpoint.name}.removed{PARTIAL}")
    shutil.rmtree(removed, ignore_errors=True)
    with suppress(FileNotFoundError):
        checkpoint.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def remove_oldest(output_dir: Path, limit: int | None, best: Path | None) -> None:
    """Removes the oldest checkpoints until only `limit` are left; never the newest one nor the best one."""
    found = [folder for _, folder in checkpoints(output_dir)]
    removable = [folder for folder in found[:-1] if best is None or folder.name != best.name]
    excess = len(found) - limit if limit else 0
    for folder in removable[: max(0, excess)]:
        remove(folder)


@contextmanager
def whole_folder(folder: Path, *, first: bool, leads: bool, wait: Callable[[], None]) -> Iterator[Path]:
    """Yields a temporary folder beside `folder`, and gives it that name once every process has written its part.

    Args:
        folder: the folder to write; an earlier one of this name is replaced.
        first: true in the first process of all.
        leads: true in one process of each machine; machines may share the disk or not.
        wait: waits until all processes have come to this point.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    if leads:
        partial.mkdir(parents=True, exist_ok=True)
    wait()
    yield partial
    wait()
    if first:
        _publish(partial, folder)
    wait()
    if leads and not first and partial.exists():  # the disk is this machine's own
        _publish(partial, folder)
    wait()


def _publish(partial: Path, folder: Path) -> None:
    list_files(partial)
    flush(partial)
    replaced = folder.with_name(f"{folder.name}.replaced{PARTIAL}")
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def list_files(folder: Path) -> None:
    """Writes the list of a folder's files, by which `damaged_file` recognises one that has lost some."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / FILE_LIST, {path.relative_to(folder).as_posix(): path.stat().st_size for path in files})


def damaged_file(folder: Path) -> str | None:
    """Returns the first file of a folder's list that is gone or cut off; None if there is none, or no list."""
    try:
        listed = json.loads((folder / FILE_LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for name, size in listed.items() if isinstance(listed, dict) else ():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return str(name)
    return None


def move_into(partial: Path, folder: Path) -> list[str]:
    """Moves the files of a complete temporary folder into `folder`, one by one, over files of the same names.

    Returns:
        The names of what was moved.
    """
    flush(partial)
    files = sorted(partial.iterdir())
    for file in files:
        _move(file, folder / file.name)
    partial.rmdir()
    _sync(folder)
    return [file.name for file in files]


def _move(file: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(file, target)


def flush(folder: Path) -> None:
    """Makes sure that a folder and all its files are on the disk, not only in memory."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(output_dir: Path, num_bytes: int, what: str) -> None:
    """Checks that a folder can be written to and has room, before hours are spent on what would be lost.

    Args:
        num_bytes: bytes that will be written.
        what: what they are, for the message.

    Raises:
        InvalidRequest: there is not enough space; the message names what is needed and what is free.
        OSError: the folder cannot be written to.
    """
    probe = output_dir / f"probe{PARTIAL}"
    probe.mkdir(parents=True, exist_ok=True)
    (probe / "file").write_bytes(b"llava")
    flush(probe)
    shutil.rmtree(probe)
    free = shutil.disk_usage(output_dir).free
    if num_bytes > free:
        raise InvalidRequest(
            f"{output_dir}: {what} take about {num_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free. "
            "Free some space, choose another --output_dir, or keep fewer checkpoints with --save_total_limit."
        )


def bytes_to_write(
    checkpoint: int, result: int, *, num_saves: int, limit: int | None, num_existing: int
) -> tuple[int, int]:
    """Estimates what a run will add to the disk at most.

    Args:
        checkpoint: bytes of a checkpoint.
        result: bytes of the result.
        num_saves: number of checkpoints that the run still has to write.
        limit: number of checkpoints that are kept; None keeps all.
        num_existing: number of checkpoints that are on the disk already.

    Returns:
        The number of checkpoints that are added, and the bytes of everything.
    """
    if not limit or num_saves <= limit - num_existing:
        return num_saves, num_saves * checkpoint + result
    # A new one is written before an old one is removed, and the result is written after that.
    added = max(1, limit + 1 - num_existing)
    return added, max(added * checkpoint, (added - 1) * checkpoint + result)


def num_saves(*, steps: int, every: float) -> int:
    """Returns how many checkpoints are written in a number of steps."""
    return math.ceil(steps / max(1.0, every))
