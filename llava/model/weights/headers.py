"""Reads the names, shapes and dtypes of a weight file from its header, without PyTorch.

Both formats keep the layout of their tensors apart from the values: a safetensors file as JSON at its start, a `.bin`
file as a pickle inside a zip archive. The pickle is read with stand-ins for PyTorch's classes; anything else in it is
left to PyTorch's own reader, which refuses what it does not trust.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any

from llava.errors import BrokenShard

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
"""Maps the dtype names of a safetensors header to PyTorch's."""

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_FLOAT_CODES = {"float64": "d", "float32": "f", "float16": "e", "bfloat16": "H"}
"""The `struct` format of one value; bfloat16 is read as the upper half of a float32."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says about one tensor."""

    shape: tuple[int, ...]
    dtype: str
    """PyTorch's name of the dtype, or the file's own name if PyTorch has none."""
    offset: int = 0
    """Position of the first value: in bytes from the start of the file, or in values within `record`."""
    record: str = ""
    """Member of the zip archive that holds the values; empty for a safetensors file."""


def read_headers(file: Path) -> dict[str, TensorHeader] | None:
    """Reads the headers of all tensors in a file, in file order.

    Returns:
        None for a file that only PyTorch can judge: a `.bin` file of before 2020, or one that holds other objects.

    Raises:
        BrokenShard: a truncated or damaged safetensors file.
    """
    return _safetensors_headers(file) if file.suffix == ".safetensors" else _pickle_headers(file)


def read_vector(file: Path, header: TensorHeader) -> list[float] | None:
    """Reads the values of a contiguous floating-point tensor; None if its dtype is not a common float."""
    code = _FLOAT_CODES.get(header.dtype)
    if code is None:
        return None
    form = struct.Struct(f"<{prod(header.shape)}{code}")
    if header.record:
        with zipfile.ZipFile(file) as archive:
            data = archive.read(header.record)[header.offset * struct.calcsize(code) :]
    else:
        with file.open("rb") as handle:
            handle.seek(header.offset)
            data = handle.read(form.size)
    values = form.unpack(data[: form.size])
    if header.dtype == "bfloat16":
        return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}I", *(v << 16 for v in values))))
    return list(values)


def _safetensors_headers(file: Path) -> dict[str, TensorHeader]:
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            size = file.stat().st_size
            if 8 + length > size:
                raise BrokenShard(file, "the file ends within its header")
            entries: dict[str, Any] = json.loads(handle.read(length))
        entries.pop("__metadata__", None)
        headers = {
            name: TensorHeader(
                tuple(entry["shape"]),
                SAFE_DTYPES.get(entry["dtype"], entry["dtype"]),
                8 + length + entry["data_offsets"][0],
            )
            for name, entry in entries.items()
        }
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BrokenShard(file, str(error) or type(error).__name__) from error
    if end != size:
        raise BrokenShard(file, f"its header describes {end} bytes, the file has {size}")
    return headers


def _pickle_headers(file: Path) -> dict[str, TensorHeader] | None:
    try:
        with zipfile.ZipFile(file) as archive:
            table = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if table is None:
                return None
            with archive.open(table) as handle:
                content = _HeaderUnpickler(handle, folder=table.removesuffix("data.pkl")).load()
    except (zipfile.BadZipFile, OSError, EOFError, UnpicklingError, ValueError, TypeError, KeyError, IndexError):
        return None  # PyTorch reports what is wrong
    if not isinstance(content, dict) or not all(isinstance(value, TensorHeader) for value in content.values()):
        return None
    return dict(content)


class _HeaderUnpickler(Unpickler):
    """Builds a `TensorHeader` where PyTorch would build a tensor, and runs nothing else."""

    def __init__(self, file: Any, *, folder: str):
        super().__init__(file)
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor_header
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter_header
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise UnpicklingError(f"{module}.{name} is not part of a table of tensors")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, str):
            raise UnpicklingError(f"{kind} is not a storage")
        return dtype, f"{self._folder}data/{key}"


def _tensor_header(storage: tuple[str, str], offset: int, shape: tuple[int, ...], *_: Any) -> TensorHeader:
    dtype, record = storage
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *shape)):
        raise UnpicklingError("a tensor's shape or position is not a number")
    return TensorHeader(tuple(shape), dtype, offset, record)


def _parameter_header(data: TensorHeader, *_: Any) -> TensorHeader:
    return data
