"""Reads model folders tensor by tensor, whatever the file format, without ever holding a model in memory.

Safetensors files are mapped, `.bin` files are mapped and unpickled with `weights_only=True`, so listing the names and
shapes of a 26 GB checkpoint costs a few megabytes. Everything wrong with a folder is found here and said with the
file's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import BrokenShard, CheckpointError, MissingShard, WeightsNotFound
from llava.files.json_files import read_json_object

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAFE_SINGLE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
OWN_TOWER = "vision_tower"
"""Folder inside a model folder that describes a tower whose weights are among the model's."""
BIN_SINGLE, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LEFTOVER = re.compile(r"rotary_emb\.inv_freq$|embeddings\.position_ids$")
"""Names of buffers that files of 2023 carry and that today's models compute; zero in a delta."""
BLOCK_BYTES = 32 << 20
"""How much of a tensor the weight tools hold at a time: enough that a disk reads ahead, little beside torch itself."""
SAFE_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The names of element types in a safetensors header, and torch's."""


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object of a model folder.

    Raises:
        CheckpointError: the file is missing, cannot be read as JSON, or holds another JSON value.
    """
    return read_json_object(path, remedy="Is this a model folder?", error=CheckpointError)


def resolve_folder(path: str | Path, *, what: str = "model", revision: str | None = None) -> Path:
    """A local folder as it is; anything shaped like a hub id is fetched into the hub's cache.

    Raises:
        CheckpointError: neither a folder here nor a repository that can be fetched.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    text = str(path)
    if folder.exists():
        raise CheckpointError(f"{text}: this is a file; give the {what} folder that holds config.json.")
    if text.startswith((".", "/", "~")) or text.count("/") != 1 or text.endswith("/"):
        raise CheckpointError(f"{text}: no such {what} folder. Check the path, or give a hub id such as owner/name.")
    return _fetch(text, what, revision)


def _fetch(repo_id: str, what: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted))
    except hub_errors() as error:
        raise CheckpointError(
            f"{repo_id}: no such {what} folder here, and it could not be fetched from the hub ({hub_reason(error)}). "
            "Check the name and the network, or download it and give the folder's path."
        ) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises where the hub, the network or the disk does not do its part."""
    from huggingface_hub.errors import HTTPError

    # HTTPError: a lost connection too. RuntimeError: how an upload, and the Xet transfers, report what went wrong.
    return HTTPError, OSError, ValueError, RuntimeError


def hub_reason(error: Exception) -> str:
    """What went wrong, in one line; the client's own first line is often a bare status."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "its owner has to grant access: ask for it on its page, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: then `hf auth login` first"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not re.match(r"\d+ Client Error\.|Bad request\b", line)]
    return (telling or lines or [type(error).__name__])[0].rstrip(".")


class Checkpoint(Mapping[str, Any]):
    """The tensors of one folder by name; a value is lazy until `tensor(name)` reads it.

    Iterating gives names in file order. `self[name]` is a handle that transformers can load from (a safetensors
    slice, or a memory-mapped tensor); `shape(name)` and `tensor(name)` read the header and the data.
    """

    def __init__(self, files: list[Path]):
        self.files = files
        self._in_memory: dict[str, Tensor] = {}
        self._where: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for file in files:
            for name in self._names_in(file):
                self._where[name] = file

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __getitem__(self, name: str) -> Any:
        if name in self._in_memory:
            return self._in_memory[name]
        handle = self._handle(self._where[name])
        return handle[name] if isinstance(handle, dict) else handle.get_slice(name)

    def file_of(self, name: str) -> Path:
        return self._where[name]

    def shape(self, name: str) -> tuple[int, ...]:
        value = self[name]
        return tuple(value.get_shape() if hasattr(value, "get_shape") else value.shape)

    def dtype(self, name: str) -> torch.dtype:
        import torch

        value = self[name]
        if not hasattr(value, "get_dtype"):
            return value.dtype
        known = SAFE_DTYPES.get(value.get_dtype())
        if known is None:
            raise BrokenShard(self._where[name], f"{name} is of the type {value.get_dtype()}, which is not read here")
        return getattr(torch, known)

    def tensor(self, name: str) -> Tensor:
        if name in self._in_memory:
            return self._in_memory[name]
        handle = self._handle(self._where[name])
        return handle[name] if isinstance(handle, dict) else handle.get_tensor(name)

    def row_ranges(self, name: str, *, limit_bytes: int = BLOCK_BYTES) -> list[tuple[int, int]]:
        """Splits the first dimension into ranges of at most `limit_bytes`, one row at least; [(0, 0)] for a scalar."""
        shape = self.shape(name)
        if not shape or 0 in shape:
            return [(0, 0)]
        step = max(1, limit_bytes // (prod(shape[1:]) * self.dtype(name).itemsize))
        return [(first, min(first + step, shape[0])) for first in range(0, shape[0], step)]

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of a tensor; all of a scalar or an empty one."""
        shape = self.shape(name)
        return self.tensor(name) if not shape or 0 in shape else self[name][first:last]

    def with_replaced(self, tensors: dict[str, Tensor], *, without: set[str]) -> Checkpoint:
        """The same files with some tensors left out and others, held in memory, in their place."""
        place = next(iter(self._where[name] for name in without))
        changed = Checkpoint([])
        changed.files, changed._open, changed._in_memory = self.files, self._open, dict(tensors)
        changed._where = {name: file for name, file in self._where.items() if name not in without}
        changed._where.update(dict.fromkeys(tensors, place))
        return changed

    def _names_in(self, file: Path) -> list[str]:
        handle = self._handle(file)
        return list(handle) if isinstance(handle, dict) else list(handle.keys())

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            self._open[file] = open_safetensors(file) if file.suffix == ".safetensors" else open_pickle(file)
        return self._open[file]


def open_checkpoint(folder: str | Path, *, names: tuple[str, ...] = ()) -> Checkpoint:
    """Opens the weights of a model folder.

    Args:
        folder: a local folder.
        names: other single files to accept where the usual ones are absent, in order (such as `mm_projector.bin`).

    Raises:
        WeightsNotFound: no weight file in the folder.
        MissingShard: an index names a file that is not there.
        BrokenShard: a truncated or damaged file, or a pickle that holds anything but tensors.
    """
    folder = Path(folder)
    for single, index in ((SAFE_SINGLE, SAFE_INDEX), (BIN_SINGLE, BIN_INDEX)):
        if (folder / index).is_file():
            return _open_sharded(folder, folder / index)
        if (folder / single).is_file():
            return Checkpoint([folder / single])
    for name in names:
        if (folder / name).is_file():
            return Checkpoint([folder / name])
    raise WeightsNotFound(folder, (SAFE_SINGLE, SAFE_INDEX, BIN_SINGLE, BIN_INDEX, *names))


def _open_sharded(folder: Path, index: Path) -> Checkpoint:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no `weight_map`; it is not an index of weight files. Fetch it again.")
    files = sorted(set(weight_map.values()))
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise MissingShard(index, absent, len(files))
    checkpoint = Checkpoint([folder / name for name in files])
    lost = [name for name in weight_map if name not in checkpoint]
    if lost:
        raise BrokenShard(folder / weight_map[lost[0]], f"the index promises {lost[0]}, which is not in the file")
    return checkpoint


def open_safetensors(file: Path) -> Any:
    """Maps one safetensors file; the returned handle has `keys`, `get_slice` and `get_tensor`."""
    from safetensors import SafetensorError, safe_open

    try:
        # The handle keeps the file mapped for as long as the checkpoint lives.
        return safe_open(str(file), framework="pt")
    except (SafetensorError, OSError) as error:
        raise BrokenShard(file, str(error)) from error


def open_pickle(file: Path) -> dict[str, Tensor]:
    """Maps one `.bin` file of tensors; unpickles nothing else.

    Raises:
        BrokenShard: truncated, or a pickle that holds anything but tensors.
    """
    from pickle import UnpicklingError

    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError) as error:
        # Files written before torch 1.6 are no zip archives and cannot be mapped.
        if "mmap can only be used" not in str(error):
            raise BrokenShard(file, str(error).splitlines()[0]) from error
        content = _load_unmapped(file)
    except (UnpicklingError, EOFError, OSError) as error:
        raise BrokenShard(file, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise BrokenShard(file, "it does not hold a flat table of tensors by name")
    return content


def _load_unmapped(file: Path) -> dict[str, Tensor]:
    from pickle import UnpicklingError

    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, UnpicklingError, EOFError, OSError) as error:
        raise BrokenShard(file, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
