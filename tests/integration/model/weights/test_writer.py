"""A model folder has one writer at a time, also among processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from llava.errors import CheckpointError
from llava.model.weights.writer import CheckpointWriter, TensorSpec

SPECS = [TensorSpec("a", (2,), torch.float32)]


def write(target: Path) -> None:
    with CheckpointWriter(target, SPECS) as writer:
        writer.write("a", [torch.ones(2)])


def _hold(target: Path, ready, done) -> None:
    with CheckpointWriter(target, SPECS):
        ready.set()
        done.wait(60)


def test_two_processes_cannot_write_one_target(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "model", ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(CheckpointError, match="another process is writing this folder"):
            write(tmp_path / "model")
    finally:
        done.set()
        other.join(60)
    write(tmp_path / "model")
