"""Reads what wandb has recorded offline.

A `.wandb` file is a log in LevelDB's format: blocks of 32 KiB with chunks of a record each, behind a header of 7 bytes.
The records are wandb's own messages.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32 * 1024
_MAGIC = b":W&B"
_WHOLE, _FIRST, _LAST = 1, 2, 4


def _records(content: bytes) -> Iterator[bytes]:
    assert content.startswith(_MAGIC)
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < 7:  # the rest of a block that is too short for a header is padding
            position += left
            continue
        _checksum, size, kind = struct.unpack_from("<IHB", content, position)
        parts = b"" if kind in (_WHOLE, _FIRST) else parts
        parts += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (_WHOLE, _LAST):
            yield parts


def logged(folder: Path) -> list[dict[str, Any]]:
    """Returns what an offline run has logged, one mapping for each call; names are wandb's."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("run-*.wandb")
    entries = []
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            entries.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
    return entries
