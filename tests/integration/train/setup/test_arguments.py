"""Flags of a training command that need a library which takes seconds to load."""

from __future__ import annotations

from llava.train import train


def test_wandb_without_an_account_records_offline_and_says_so(monkeypatch, tmp_path):
    for name in ("WORLD_SIZE", "RANK", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o", "--report_to", "wandb"]
    _, _, training = train.parse(flags)
    assert training.report_to == ["wandb"]
    assert any("offline" in note for note in training.notes)
