"""Tells models apart by what is in their files, without reading all of a large one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".jinja")
_PARTS = ("", "vision_tower")
"""A model folder, and the tower inside."""

_WHOLE_BYTES = 1 << 20
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 4096


def fingerprint(*sources: str | Path | None) -> str:
    """16 hexadecimal digits that change with the model: with its settings, its tokenizer, its weights.

    Of a large file the size and samples from all of its length count: training changes every weight, so a model that
    was trained further has another fingerprint, at the cost of reading a quarter of a megabyte a file.

    Args:
        sources: folders or files; what is None or not there (the name of a model on a hub) counts as its name.
    """
    digest = hashlib.sha256()
    for source in sources:
        path = Path(source).expanduser() if source is not None else None
        if path is None or not path.exists():
            digest.update(f"{source}\n".encode())
            continue
        for file in [path] if path.is_file() else _files(path):
            name = file.name if file == path else file.relative_to(path).as_posix()
            digest.update(f"{name} {file.stat().st_size}\n".encode())
            for piece in _samples(file):
                digest.update(piece)
    return digest.hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    for part in _PARTS:
        if (folder / part).is_dir():
            yield from sorted(file for file in (folder / part).iterdir() if file.suffix in _SUFFIXES and file.is_file())


def _samples(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as content:
        if size <= _WHOLE_BYTES:
            yield content.read()
            return
        for number in range(_NUM_SAMPLES):
            content.seek((size - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1))
            yield content.read(_SAMPLE_BYTES)
