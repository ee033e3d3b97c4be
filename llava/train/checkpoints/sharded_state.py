"""Saves and restores the state of a sharded run with torch.distributed.checkpoint: each process its own share.

A state holds the parameters that train and the optimizer's state. It can be read with another number of processes, and
by a process that does not shard at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from llava.errors import CheckpointError

SHARDED_FOLDER = "sharded_state"
_METADATA = ".metadata"


def is_sharded(checkpoint: Path) -> bool:
    """Tells whether a checkpoint holds the state of a sharded run."""
    return (checkpoint / SHARDED_FOLDER / _METADATA).is_file()


def save_sharded(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Writes the state below `checkpoint`. Every process must call this."""
    with _quietly():
        state = {"model": _trained(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
        dcp.save(state, checkpoint_id=str(checkpoint / SHARDED_FOLDER))


def load_sharded_weights(model: nn.Module, checkpoint: Path) -> None:
    """Reads the trained parameters of a checkpoint into a model. Every process must call this.

    Raises:
        CheckpointError: the checkpoint was written by a run that trained other parameters.
    """
    trained = _trained(model)
    names = {f"model.{name}" for name in trained}
    saved = {name for name in _saved_names(checkpoint) if name.startswith("model.")}
    if names != saved:
        difference = ", ".join(sorted(name.removeprefix("model.") for name in names ^ saved)[:5])
        raise CheckpointError(
            f"{checkpoint}: the tensors do not match those that this run trains: {difference}. "
            "Use another --output_dir."
        )
    with _quietly():
        dcp.load({"model": trained}, checkpoint_id=str(checkpoint / SHARDED_FOLDER))


def load_sharded_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Reads the optimizer's state of a checkpoint. Every process must call this."""
    with _quietly():
        state: dict[str, Any] = {"optimizer": get_optimizer_state_dict(model, optimizer)}
        dcp.load(state, checkpoint_id=str(checkpoint / SHARDED_FOLDER))
        set_optimizer_state_dict(model, optimizer, state["optimizer"])


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _saved_names(checkpoint: Path) -> set[str]:
    reader = dcp.FileSystemReader(str(checkpoint / SHARDED_FOLDER))
    return set(reader.read_metadata().state_dict_metadata)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silences advice for the authors of training loops, such as about single processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
