"""The history of real runs: interrupted and resumed, and in a tracker."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from llava.train import train
from llava.train.llava_trainer import LLaVATrainer
from llava.train.monitoring.metrics import METRICS_FILE
from tests.support.training import STAGE_1, flags, write_records
from tests.support.wandb_runs import logged

MEASURED = ("samples_per_second", "supervised_tokens_per_second", "tokens_per_second", "memory_gb", "seconds")
RESULTS = ("step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_perplexity", "eval_samples")


def lines(output: Path) -> list[dict]:
    text = (output / METRICS_FILE).read_text()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def results(output: Path) -> list[list]:
    """Everything that does not depend on time, without the summary at the end."""
    return [[line.get(name) for name in RESULTS] for line in lines(output) if "train_runtime" not in line]


def run(*arguments: str) -> None:
    train.train(*train.parse(arguments))


def test_each_logged_step_has_loss_speed_and_memory(tmp_path, capsys):
    run(*flags(write_records(tmp_path / "train.json"), tmp_path / "out", *STAGE_1))
    *steps, summary = lines(tmp_path / "out")
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in steps:
        assert all(line[name] > 0 for name in (*MEASURED, "loss", "grad_norm", "learning_rate"))
    assert "train_loss" in summary
    printed = capsys.readouterr().out
    assert "'loss'" not in printed
    assert "\r" not in printed
    for line in printed.splitlines():
        assert line.startswith("[llava.train] ")
    for number in (1, 2, 3):
        assert f"step {number}/3 (" in printed
    last = printed.splitlines()[-1]
    assert "12 samples" in last
    assert "samples/s" in last
    assert f"Saved in {tmp_path / 'out'}" in last


def test_an_interrupted_run_ends_with_the_history_of_an_uninterrupted_one(tmp_path, monkeypatch):
    """Logged steps lie between the checkpoints: a logged loss covers steps before and after the interruption."""
    records = write_records(tmp_path / "train.json")
    more = ("--logging_steps", "3", "--save_strategy", "steps", "--save_steps", "4", "--num_train_epochs", "2")
    held_out = ("--eval_data_path", str(write_records(tmp_path / "held_out.json", 4)), "--eval_steps", "2")
    command = [*STAGE_1, *more, *held_out, "--eval_on_start", "True"]
    run(*flags(records, tmp_path / "whole", *command, batch=2))
    with monkeypatch.context() as patched:
        original = LLaVATrainer.get_batch_samples

        def interrupted(trainer, *args, **kwargs):
            if trainer.state.global_step == 7:
                raise KeyboardInterrupt
            return original(trainer, *args, **kwargs)

        patched.setattr(LLaVATrainer, "get_batch_samples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(*flags(records, tmp_path / "parts", *command, batch=2))
    assert results(tmp_path / "parts")[-1][0] == 6
    file = tmp_path / "parts" / METRICS_FILE
    file.write_text(file.read_text() + '{"step": 7, "lo')  # it was writing
    run(*flags(records, tmp_path / "parts", *command, batch=2))
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    assert len(results(tmp_path / "whole")) == 1 + 4 + 6
    seconds = [line["seconds"] for line in lines(tmp_path / "parts") if "seconds" in line]
    assert seconds == sorted(seconds)


def test_a_run_that_is_interrupted_at_its_very_end_measures_nothing_twice(tmp_path, monkeypatch, capsys):
    """The last step lies within an epoch, whose end measures the validation loss."""
    records, output = write_records(tmp_path / "train.json"), tmp_path / "out"
    held_out = ("--eval_data_path", str(write_records(tmp_path / "held_out.json", 4)))
    command = flags(records, output, *STAGE_1, *held_out, "--max_steps", "2", "--save_strategy", "epoch")
    with monkeypatch.context() as patched:
        patched.setattr("llava.train.train._finish", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            run(*command)
    before = results(output)
    capsys.readouterr()
    run(*command)
    assert "all 2 steps are done" in capsys.readouterr().out
    assert results(output) == before
    assert [(line[0], line[5] is not None) for line in before] == [(1, False), (2, False), (2, True)]


@pytest.mark.slow
def test_a_killed_run_of_two_processes_ends_with_the_history_of_an_uninterrupted_one(two_processes):
    work, outcomes = two_processes
    assert -9 in outcomes["killed"].codes
    assert {*outcomes["whole"].codes, *outcomes["parts"].codes} == {0}, outcomes["parts"].printed[-3000:]
    assert "resuming from" in outcomes["parts"].printed
    assert results(work / "parts") == results(work / "whole")
    assert [line[0] for line in results(work / "whole")] == [3, 6]
    assert "24 samples" in outcomes["whole"].printed.splitlines()[-1]


def test_wandb_records_the_same_numbers_offline(tmp_path, monkeypatch):
    """Oracle: the run's folder, read back."""
    for name in ("WANDB_API_KEY", "WANDB_DIR", "WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    records = write_records(tmp_path / "train.json", 6)
    held_out = ("--eval_data_path", str(write_records(tmp_path / "held_out.json", 4)), "--eval_steps", "2")
    before = set(psutil.Process().children(recursive=True))
    run(*flags(records, tmp_path / "out", *STAGE_1, *held_out, "--report_to", "wandb", "--run_name", "first", batch=2))
    import wandb

    wandb.teardown()
    left = set(psutil.Process().children(recursive=True)) - before
    psutil.wait_procs(left, timeout=10)
    assert not [process for process in left if process.is_running()]
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    entries = logged(folder)
    for kind, names in {"train": ("loss", "learning_rate", "grad_norm", *MEASURED), "eval": ("loss",)}.items():
        prefix = "" if kind == "train" else "eval_"
        for name in names:
            ours = [line[prefix + name] for line in lines(tmp_path / "out") if prefix + name in line]
            theirs = [entry[f"{kind}/{name}"] for entry in entries if f"{kind}/{name}" in entry]
            assert theirs == pytest.approx(ours, rel=1e-6), name
            assert len(theirs) == (3 if kind == "train" else 2)
