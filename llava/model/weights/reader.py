"""Reads model folders tensor by tensor, whatever the file format, without ever holding a model in memory.

Names, shapes and dtypes come from the headers of the files, without PyTorch (`llava.model.weights.headers`). Values are
read from memory-mapped files, `.bin` files with `weights_only=True`, so opening a 26 GB checkpoint costs a few
megabytes. Every error names the file at fault.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava import pocket
from llava.errors import BrokenShard, CheckpointError, MissingShard, WeightsNotFound
from llava.files.json_files import read_json_object
from llava.model.weights.file_formats import check_is_weights, open_pickle, open_safetensors
from llava.model.weights.headers import TensorHeader, read_headers, read_vector
from llava.model.weights.quantised import refuse_quantised

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

SAFE_SINGLE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
BIN_SINGLE, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
"""Names of the two tensors that have one row for each token."""
OWN_TOWER = "vision_tower"
"""Folder inside a model folder that describes a tower whose weights are among the model's."""
LEFTOVER = re.compile(r"rotary_emb\.inv_freq$|embeddings\.position_ids$")
"""Names of buffers that files of 2023 contain and current models compute; they are zero in a delta."""
BLOCK_BYTES = 32 << 20
"""How much of a tensor the weight tools hold at a time: enough for the disk to read ahead, little beside PyTorch."""


def read_model_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object from a model folder.

    Raises:
        CheckpointError: the file is missing, cannot be read as JSON, or holds another JSON value.
    """
    return read_json_object(path, remedy="Is this a model folder?", error=CheckpointError)


def resolve_folder(path: str | Path, *, what: str = "model", revision: str | None = None) -> Path:
    """Returns a local folder as it is, finds an embedded model by name, and fetches a hub id into the hub's cache.

    Raises:
        CheckpointError: neither a local folder nor a repository that can be fetched.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    text = str(path)
    if text in pocket.DESCRIPTIONS:
        return pocket.find(text)
    if folder.exists():
        raise CheckpointError(f"{text}: this is a file. Give the {what} folder that holds config.json.")
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
            "Check the name and the network, or download it and give the path of the folder."
        ) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """Returns what the hub's client raises when the hub, the network or the disk fails."""
    from huggingface_hub.errors import HTTPError

    # HTTPError covers lost connections; uploads and Xet transfers raise RuntimeError.
    return HTTPError, OSError, ValueError, RuntimeError


def hub_reason(error: Exception) -> str:
    """Describes a hub error in one line; the client's own first line is often a bare status code."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "its owner must grant access: request it on the repository's page, then run `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "the repository does not exist, or it is private; for a private one, run `hf auth login` first"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not re.match(r"\d+ Client Error\.|Bad request\b", line)]
    return (telling or lines or [type(error).__name__])[0].rstrip(".")


@dataclass(frozen=True, slots=True)
class DerivedTensor:
    """A tensor that is computed from others of its checkpoint when it is read."""

    shape: tuple[int, ...]
    dtype: str
    """PyTorch's name of the dtype."""
    compute: Callable[[], Tensor]
    rows: Callable[[int, int], Tensor] | None = None
    """Computes a range of rows alone. Without it, the whole tensor is computed once and kept."""


class Checkpoint(Mapping[str, Any]):
    """The tensors of one folder by name; a value is read only when it is asked for.

    Iteration yields the names in file order. `self[name]` is a handle that transformers can load from (a safetensors
    slice, or a memory-mapped tensor). `shape(name)` and `dtype_name(name)` read the header, `tensor(name)` the values.
    """

    def __init__(self, files: list[Path]):
        """
        Raises:
            BrokenShard: a damaged file, a pickle that holds anything but tensors, or a tensor in two files.
            NotWeights: a file that was never weights, such as a pointer of Git LFS.
            QuantizedWeights: quantised tensors.
        """
        self.files = files
        self._headers: dict[str, TensorHeader] = {}
        self._derived: dict[str, DerivedTensor] = {}
        self._computed: dict[str, Tensor] = {}
        self._where: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for file in files:
            check_is_weights(file)
            headers = read_headers(file)
            if headers is None:
                headers = {name: _header_of(tensor) for name, tensor in self._handle(file).items()}
            refuse_quantised(headers, file)
            for name in headers:
                if name in self._where:
                    raise BrokenShard(file, f"{name} is also in {self._where[name].name}")
            self._headers.update(headers)
            self._where.update(dict.fromkeys(headers, file))

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __getitem__(self, name: str) -> Any:
        if name in self._derived:
            return _LazyTensor(self, name)
        handle = self._handle(self._where[name])
        return handle[name] if isinstance(handle, dict) else handle.get_slice(name)

    def file_of(self, name: str) -> Path:
        return self._where[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._derived[name].shape if name in self._derived else self._headers[name].shape

    def dtype_name(self, name: str) -> str:
        """Returns PyTorch's name of a tensor's dtype, such as `float16`."""
        return self._derived[name].dtype if name in self._derived else self._headers[name].dtype

    def dtype(self, name: str) -> torch.dtype:
        """
        Raises:
            BrokenShard: a dtype that PyTorch does not have.
        """
        import torch

        dtype = getattr(torch, self.dtype_name(name), None)
        if dtype is None:
            raise BrokenShard(self._where[name], f"the dtype of {name}, {self.dtype_name(name)}, is not supported")
        return dtype

    def tensor(self, name: str) -> Tensor:
        if name in self._derived:
            derived = self._derived[name]
            if derived.rows is not None:
                return derived.compute()  # as large as a file's tensor, so it is not kept
            if name not in self._computed:
                self._computed[name] = derived.compute()
            return self._computed[name]
        handle = self._handle(self._where[name])
        return handle[name] if isinstance(handle, dict) else handle.get_tensor(name)

    def vector(self, name: str) -> list[float] | None:
        """Reads the values of a small tensor without PyTorch; None if the format or the dtype does not allow it."""
        header = None if name in self._derived else self._headers.get(name)
        if header is None or not (header.record or self._where[name].suffix == ".safetensors"):
            return None
        return read_vector(self._where[name], header)

    def row_ranges(self, name: str, *, limit_bytes: int = BLOCK_BYTES) -> list[tuple[int, int]]:
        """Splits the first dimension into ranges of at most `limit_bytes`, at least one row; [(0, 0)] for a scalar."""
        shape = self.shape(name)
        if not shape or 0 in shape:
            return [(0, 0)]
        step = max(1, limit_bytes // (prod(shape[1:]) * self.dtype(name).itemsize))
        return [(first, min(first + step, shape[0])) for first in range(0, shape[0], step)]

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Reads rows `first` to `last` of a tensor; a scalar or an empty tensor is read whole."""
        shape = self.shape(name)
        if not shape or 0 in shape:
            return self.tensor(name)
        derived = self._derived.get(name)
        return self[name][first:last] if derived is None or derived.rows is None else derived.rows(first, last)

    def with_replaced(
        self, tensors: Mapping[str, DerivedTensor], *, without: Collection[str] = (), file: Path | None = None
    ) -> Checkpoint:
        """Returns the same files with other tensors.

        Args:
            tensors: tensors to add, or to take in place of those of the same names.
            without: names of tensors to leave out.
            file: the file that messages name for added tensors; None is the first of this checkpoint.
        """
        changed = Checkpoint([])
        changed.files, changed._open, changed._headers = self.files, self._open, self._headers
        changed._derived = {**self._derived, **tensors}
        changed._where = {name: place for name, place in self._where.items() if name not in without}
        changed._where |= {name: file or self.files[0] for name in tensors if name not in changed._where or file}
        return changed

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            self._open[file] = open_safetensors(file) if file.suffix == ".safetensors" else open_pickle(file)
        return self._open[file]


class _LazyTensor:
    """A derived tensor that is computed when it is indexed, as a slice of a safetensors file is read."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint, self._name = checkpoint, name

    def __getitem__(self, index: Any) -> Tensor:
        return self._checkpoint.tensor(self._name)[index]


def _header_of(tensor: Tensor) -> TensorHeader:
    return TensorHeader(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def open_checkpoint(folder: str | Path, *, names: tuple[str, ...] = ()) -> Checkpoint:
    """Opens the weights of a model folder.

    Args:
        folder: a local folder.
        names: single files to accept if the usual ones are absent, in order of preference (such as `mm_projector.bin`).

    Raises:
        WeightsNotFound: no weight file in the folder.
        MissingShard: a file of several is not there.
        BrokenShard, NotWeights, QuantizedWeights: as `Checkpoint`.
    """
    folder = Path(folder)
    for single, index in ((SAFE_SINGLE, SAFE_INDEX), (BIN_SINGLE, BIN_INDEX)):
        if (folder / single).is_file():
            if (folder / index).is_file():
                log.warning("%s: %s is read; %s is not used.", folder, single, index)
            return Checkpoint([folder / single])
        if (folder / index).is_file():
            return _open_sharded(folder, folder / index)
    shards = _shards_without_index(folder)
    if shards:
        return Checkpoint(shards)
    for name in names:
        if (folder / name).is_file():
            return Checkpoint([folder / name])
    raise WeightsNotFound(folder, (SAFE_SINGLE, SAFE_INDEX, BIN_SINGLE, BIN_INDEX, *names), _other_weights(folder))


def _shards_without_index(folder: Path) -> list[Path]:
    """Returns the files of a checkpoint that lost its index: their names say how many there are.

    Raises:
        MissingShard: one of them is not there.
    """
    for stem, suffix in ((SAFE_SINGLE, ".safetensors"), (BIN_SINGLE, ".bin")):
        pattern = re.compile(rf"{stem.removesuffix(suffix)}-(\d+)-of-(\d+){re.escape(suffix)}")
        found = [match for path in sorted(folder.glob(f"*{suffix}")) if (match := pattern.fullmatch(path.name))]
        if not found:
            continue
        digits, total = len(found[0][1]), int(found[0][2])
        wanted = [
            f"{stem.removesuffix(suffix)}-{number:0{digits}}-of-{found[0][2]}{suffix}" for number in range(1, total + 1)
        ]
        absent = [name for name in wanted if not (folder / name).is_file()]
        if absent:
            raise MissingShard(folder, absent, total)
        return [folder / name for name in wanted]
    return []


def _other_weights(folder: Path) -> list[str]:
    """Returns the names of files in formats that are not read."""
    suffixes = (".gguf", ".ggml", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".npz", ".safetensors", ".bin")
    return sorted(path.name for path in folder.glob("*") if path.suffix in suffixes)


def _open_sharded(folder: Path, index: Path) -> Checkpoint:
    weight_map = read_model_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no `weight_map`, so it is not an index of weight files. Fetch it again.")
    files = sorted(set(weight_map.values()))
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise MissingShard(index, absent, len(files))
    checkpoint = Checkpoint([folder / name for name in files])
    lost = [name for name in weight_map if name not in checkpoint]
    if lost:
        raise BrokenShard(folder / weight_map[lost[0]], f"the index lists {lost[0]}, which is not in the file")
    return checkpoint
