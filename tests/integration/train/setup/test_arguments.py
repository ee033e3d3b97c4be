"""Flags of a training command that need a library which takes seconds to load."""

from __future__ import annotations

import pytest

from llava.train import train


def test_wandb_without_an_account_records_offline_and_says_so(monkeypatch, tmp_path):
    for name in ("WORLD_SIZE", "RANK", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o", "--report_to", "wandb"]
    _, _, training = train.parse(flags)
    assert training.report_to == ["wandb"]
    assert any("offline" in note for note in training.notes)


@pytest.mark.parametrize("words", [("tensorboard", "wandb", "trackio"), ("tensorboard,wandb", "trackio,")])
def test_several_trackers_can_be_named_and_missing_ones_are_said(monkeypatch, words):
    available = ["wandb", "tensorboard"]
    monkeypatch.setattr("llava.train.setup.training_arguments.get_available_reporting_integrations", lambda: available)
    monkeypatch.setenv("WANDB_MODE", "offline")
    required = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "runs/first"]
    _, _, training = train.parse([*required, "--use_cpu", "--report_to", *words])
    assert training.report_to == ["tensorboard", "wandb"]
    assert training.notes == ["--report_to trackio: ignored; the package is not installed"]
    assert training.run_name == "first"


def test_no_tracker_is_used_without_being_named():
    _, _, training = train.parse(["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o"])
    assert training.report_to == []
