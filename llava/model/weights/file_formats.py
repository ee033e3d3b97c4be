"""Opens single weight files, safetensors and `.bin`, and says in a few words what is wrong with one that is neither."""

from __future__ import annotations

import logging
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import BrokenShard, NotWeights

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_WRAPPING_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training checkpoints keep the table of tensors."""


def check_is_weights(file: Path) -> None:
    """Refuses a file that is plainly something else, by its first bytes.

    Raises:
        NotWeights: a pointer of Git LFS, a page or an error message that was saved in place of the file, or nothing.
    """
    try:
        with file.open("rb") as handle:
            head = handle.read(200)
    except OSError:
        return  # the reader reports it
    start = head.lstrip()[:60].lower()
    if not head:
        raise NotWeights(f"{file}: is empty. Download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise NotWeights(
            f"{file}: is a pointer of Git LFS, not the weights. Run `git lfs pull` in its folder, or download the file."
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<error")):
        raise NotWeights(
            f"{file}: is a web page that was saved in place of the weights. Download the file again; for a model that "
            "asks for permission, run `hf auth login` first."
        )
    if start.startswith((b'{"error', b"{'error", b"entry not found", b"not found", b"access to model")):
        raise NotWeights(
            f"{file}: is an error message of a server ({head[:80].decode('utf-8', 'replace').strip()!r}), not weights. "
            "Download the file again."
        )


def open_safetensors(file: Path) -> Any:
    """Maps one safetensors file; the returned handle has `keys`, `get_slice` and `get_tensor`."""
    from safetensors import SafetensorError, safe_open

    try:
        # The handle keeps the file mapped for as long as the checkpoint lives.
        return safe_open(str(file), framework="pt")
    except (SafetensorError, OSError) as error:
        raise BrokenShard(file, str(error)) from error


def open_pickle(file: Path) -> dict[str, Tensor]:
    """Maps one `.bin` file of tensors, and refuses to unpickle anything else.

    Raises:
        BrokenShard: truncated, or a pickle that holds anything but tensors.
    """
    from pickle import UnpicklingError

    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError) as error:
        # Files written before PyTorch 1.6 are not zip archives and cannot be mapped.
        if "mmap can only be used" not in str(error):
            raise BrokenShard(file, _why_not_unpickled(error, file)) from error
        content = _load_unmapped(file)
    except (UnpicklingError, EOFError, OSError) as error:
        raise BrokenShard(file, _why_not_unpickled(error, file)) from error
    content = _unwrapped(content, file)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise BrokenShard(file, "it is not a flat table of tensors by name")
    return content


def _unwrapped(content: Any, file: Path) -> Any:
    """Returns the table of tensors inside a training checkpoint such as `{"state_dict": ..., "epoch": 3}`."""
    if not isinstance(content, dict):
        return content
    key = next((key for key in _WRAPPING_KEYS if isinstance(content.get(key), dict)), None)
    if key is None:
        return content
    others = [str(other) for other in content if other != key]
    if others:
        log.warning("%s: the weights are taken from %r; %s is not used.", file, key, ", ".join(others))
    return content[key]


def _why_not_unpickled(error: Exception, file: Path) -> str:
    """Describes in a few words why a pickle was refused, without PyTorch's advice to trust it."""
    text = str(error)
    unknown = re.search(r"Unsupported global: GLOBAL (\S+)", text) or re.search(
        r"GLOBAL (\S+) was not an allowed", text
    )
    if unknown:
        return f"it holds objects of type {unknown[1] or unknown[2]}, and only tensors are read, for safety"
    with file.open("rb") as handle:
        is_archive = handle.read(2) == b"PK"
    if is_archive and not zipfile.is_zipfile(file):
        return "the end of the file is missing"
    if "weights_only" in text or "Weights only" in text:
        return "it is no table of tensors"
    return text.splitlines()[0] if text else type(error).__name__


def _load_unmapped(file: Path) -> dict[str, Tensor]:
    from pickle import UnpicklingError

    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, UnpicklingError, EOFError, OSError) as error:
        raise BrokenShard(file, _why_not_unpickled(error, file)) from error
