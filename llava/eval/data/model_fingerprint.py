"""Identifies a model by the contents of its files, without reading large files completely."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

_SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".jinja")
_PARTS = ("", "vision_tower")
"""The model folder, and the vision tower inside it."""

_WHOLE_BYTES = 1 << 20
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 4096


def fingerprint(*sources: str | Path | None) -> str:
    """Returns 16 hexadecimal digits that change with a model's settings, tokenizer or weights.

    A large file contributes its size and a quarter of a megabyte of samples from its whole length. Training changes
    every weight, so a model that was trained further gets another fingerprint.

    Args:
        sources: folders or files. A source that is None or does not exist (such as the name of a model on the hub)
            contributes its name.
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
