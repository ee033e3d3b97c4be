"""Which of torchrun's processes this one is."""

from __future__ import annotations

from llava.eval.answering.torchrun import TorchrunProcess


def test_a_process_that_was_started_alone_is_the_first_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    alone = TorchrunProcess.of_environment()
    assert (alone.rank, alone.size, alone.local_rank, alone.is_first) == (0, 1, None, True)


def test_one_of_several_processes_knows_its_place(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert TorchrunProcess.of_environment() == TorchrunProcess(5, 8, 1)
    assert not TorchrunProcess.of_environment().is_first
