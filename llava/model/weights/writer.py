"""Writes a model folder as safetensors shards, block by block, so that no tensor is ever held whole.

All tensors are known beforehand (`TensorSpec`), so the free disk space is checked and every header is written before
the first byte of data. All files go into a hidden folder beside the target, which takes the target's name at the very
end, so that a reader sees the old folder, none, or the whole new one. The next run removes what an interrupted one
left.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from llava.errors import CheckpointError, InvalidRequest, NotFinite
from llava.model.weights.finite import is_finite, num_not_finite
from llava.model.weights.headers import SAFE_DTYPES
from llava.model.weights.reader import SAFE_INDEX, SAFE_SINGLE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DEFAULT_SHARD_BYTES = 5_000_000_000
_SPARE_BYTES = 32 << 20
"""Disk space needed besides the weights, for configs, tokenizer and headers."""
_LOCK = ".lock"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint that will be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class CheckpointWriter:
    """Writes the tensors of `specs`, in their order, and other files beside them; `finish` makes the folder appear.

    Use it as a context manager: if the block fails, or ends without `finish`, everything written is removed.

        with CheckpointWriter(target, specs) as writer:
            for spec in specs:
                writer.write(spec.name, blocks_of(spec))
            writer.write_json("config.json", settings)
            writer.finish()
    """

    def __init__(
        self,
        target: str | Path,
        specs: list[TensorSpec],
        *,
        max_shard_bytes: int = DEFAULT_SHARD_BYTES,
        overwrite: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """
        Args:
            target: folder to create, with its parents.
            specs: all tensors, in the order in which they will be written.
            max_shard_bytes: maximum size of one file; a larger tensor gets a file to itself.
            overwrite: whether to replace an existing target.
            progress: called with the number of bytes after each block.

        Raises:
            InvalidRequest: the target exists and `overwrite` is not set, or it is not a folder.
            CheckpointError: too little disk space, or another process is writing the same target.
        """
        self.target = Path(target).expanduser().absolute()
        self.total_bytes = sum(spec.num_bytes for spec in specs)
        self._shards = shards_of(specs, max_shard_bytes)
        self._overwrite = overwrite
        self._progress = progress
        self._partial = self.target.with_name(f".{self.target.name}.incomplete")
        self._pending = [spec for shard in self._shards for spec in shard]
        self._shard = -1
        self._left_in_shard = 0
        self._file: BinaryIO | None = None
        self._lock: BinaryIO | None = None
        self._finished = False
        self._previous_handler: Any = None
        check_target(self.target, overwrite=overwrite)

    def __enter__(self) -> CheckpointWriter:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._take_partial_folder()
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, _stop)
        free = shutil.disk_usage(self.target.parent).free
        if free < self.total_bytes + _SPARE_BYTES:
            self.__exit__(None, None, None)
            raise CheckpointError(
                f"{self.target}: needs {gigabytes(self.total_bytes)}, but the disk has only {gigabytes(free)} left. "
                "Nothing was written. Free some space, or choose a target on another disk."
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):  # closing flushes, which fails on a full disk
                self._file.close()
        if not self._finished:
            self._clear()
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(
                f"{self.target}: the disk is full. Everything written has been removed; free some space."
            ) from error

    def write(self, name: str, blocks: Iterable[Tensor]) -> None:
        """Appends the next tensor, given whole or as slices of its first dimension in order.

        Raises:
            NotFinite: a NaN or an infinite value.
        """
        spec = self._pending.pop(0)
        assert spec.name == name, f"expected {spec.name} next, got {name}"
        written = 0
        if self._left_in_shard == 0:
            self._next_shard()
        for block in blocks:
            assert block.dtype == spec.dtype, f"{name}: {block.dtype} where {spec.dtype} was announced"
            _check_finite(block, name)
            data = _bytes_of(block)
            assert self._file is not None
            self._file.write(data)
            written += len(data)
            if self._progress is not None:
                self._progress(len(data))
        assert written == spec.num_bytes, f"{name}: {written} bytes where {spec.num_bytes} were announced"
        self._left_in_shard -= 1

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file beside the weights."""
        (self._partial / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def copy(self, file: Path, name: str | None = None) -> None:
        """Copies a file, or a folder with everything in it, beside the weights."""
        goal = self._partial / (name or file.name)
        if file.is_dir():
            shutil.copytree(file, goal, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(file, goal)

    @property
    def folder(self) -> Path:
        """The folder of the files until `finish`, for objects that save themselves (a tokenizer)."""
        return self._partial

    def finish(self) -> None:
        """Flushes everything to disk and renames the folder to the target."""
        assert not self._pending, f"{len(self._pending)} tensors were not written"
        self._close_shard()
        names = shard_names(len(self._shards))
        if len(names) > 1:
            weight_map = {spec.name: name for name, shard in zip(names, self._shards, strict=True) for spec in shard}
            self.write_json(SAFE_INDEX, {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map})
        (self._partial / _LOCK).unlink()
        for file in sorted(self._partial.rglob("*")):
            if file.is_file():
                _flush(file)
        _flush(self._partial)
        self._take_name()
        _flush(self.target.parent)
        self._finished = True
        self._unlock()

    def _take_name(self) -> None:
        if not self.target.exists():
            self._partial.rename(self.target)
            return
        replaced = self.target.with_name(f".{self.target.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        self.target.rename(replaced)
        self._partial.rename(self.target)
        shutil.rmtree(replaced)

    def _next_shard(self) -> None:
        self._close_shard()
        self._shard += 1
        shard = self._shards[self._shard]
        self._left_in_shard = len(shard)
        self._file = (self._partial / shard_names(len(self._shards))[self._shard]).open("wb")
        self._file.write(header(shard))

    def _close_shard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_partial_folder(self) -> None:
        """Removes what an interrupted run left, unless its process is still running."""
        self._partial.mkdir(exist_ok=True)
        self._lock = (self._partial / _LOCK).open("ab")
        if not _locked(self._lock):
            self._lock.close()
            self._lock = None
            raise CheckpointError(
                f"{self.target}: another process is writing this folder. Wait for it, or choose another target."
            )
        for entry in self._partial.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != _LOCK:
                entry.unlink()

    def _clear(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def check_target(target: Path, *, overwrite: bool) -> None:
    """Checks that a folder can be created.

    Raises:
        InvalidRequest: it exists and `overwrite` is not set, or it is not a folder.
    """
    if target.is_dir():
        if any(target.iterdir()) and not overwrite:
            raise InvalidRequest(f"{target}: already exists. Choose another target, or add --overwrite to replace it.")
    elif target.exists() or target.is_symlink():
        raise InvalidRequest(f"{target}: already exists and is not a folder. Choose another target.")


def shards_of(specs: list[TensorSpec], max_bytes: int) -> list[list[TensorSpec]]:
    """Splits tensors, in order, into files of at most `max_bytes`; a larger tensor gets a file to itself."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.num_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.num_bytes
    return shards


def shard_names(count: int) -> list[str]:
    """Returns the file names that transformers gives to so many shards."""
    if count == 1:
        return [SAFE_SINGLE]
    return [f"model-{index:05d}-of-{count:05d}.safetensors" for index in range(1, count + 1)]


def header(specs: list[TensorSpec]) -> bytes:
    """Returns the header of a safetensors file: its length, and as JSON the dtype, shape and place of each tensor."""
    names = {torch_name: name for name, torch_name in SAFE_DTYPES.items()}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for spec in specs:
        entries[spec.name] = {
            "dtype": names[str(spec.dtype).removeprefix("torch.")],
            "shape": list(spec.shape),
            "data_offsets": [place, place + spec.num_bytes],
        }
        place += spec.num_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the data
    return struct.pack("<Q", len(text)) + text


def gigabytes(num_bytes: int) -> str:
    """Formats a size as `13.5 GB` or `712.0 MB`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _check_finite(block: Tensor, name: str) -> None:
    if not is_finite(block):
        raise NotFinite(name, num_not_finite(block), str(block.dtype).removeprefix("torch."))


def _bytes_of(block: Tensor) -> memoryview:
    import torch

    return block.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _stop(*_: object) -> None:
    """Ends the process by an exception, so that what it wrote is removed on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locked(file: BinaryIO) -> bool:
    """Takes a lock that ends with the process; always True on systems without such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
