"""Writes the folders of a run so that each appears whole or not at all, even if the process or the machine dies."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llava.errors import InvalidRequest

PARTIAL = ".partial"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """Returns the checkpoints of a run, oldest first, each with its step. All are complete."""
    if not output_dir.is_dir():
        return []
    found = [(_CHECKPOINT.fullmatch(child.name), child) for child in output_dir.iterdir() if child.is_dir()]
    return sorted((int(match[1]), child) for match, child in found if match)


def remove_partial(output_dir: Path) -> None:
    """Removes what a killed run was writing."""
    for child in output_dir.glob(f"*{PARTIAL}") if output_dir.is_dir() else ():
        shutil.rmtree(child, ignore_errors=True)


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
    flush(partial)
    replaced = folder.with_name(f"{folder.name}.replaced{PARTIAL}")
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def move_into(partial: Path, folder: Path) -> None:
    """Moves the files of a complete temporary folder into `folder`, one by one, over files of the same names."""
    flush(partial)
    for file in sorted(partial.iterdir()):
        _move(file, folder / file.name)
    partial.rmdir()
    _sync(folder)


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
