"""Saves and loads the state of a training run, so that training the tower or the language model can be resumed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, spent_s: float) -> None:
    """Writes the state of a training run completely or not at all."""
    import torch

    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent_s": spent_s}
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Loads what `save_state` wrote, if it exists; returns the steps done and the seconds spent."""
    import torch

    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["spent_s"]
