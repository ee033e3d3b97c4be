"""The history of a run in one file."""

from __future__ import annotations

import json

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from llava.train.monitoring.metrics import METRICS_FILE, MetricsFile, UnloggedLoss, keep_until
from llava.train.monitoring.sample_counts import SampleCounts
from llava.train.monitoring.speed import Speed


def test_a_resumed_run_continues_the_history_where_its_checkpoint_was(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    file.write_text("\n".join(json.dumps(line) for line in [*lines, {"step": 3, "train_runtime": 5}]) + '\n{"st')
    keep_until(file, 2)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]
    keep_until(file, 0)
    assert file.read_text() == ""
    keep_until(tmp_path / "none.jsonl", 1)


def test_the_time_of_a_resumed_run_goes_on_and_its_lines_are_valid_json(tmp_path):
    file = tmp_path / METRICS_FILE
    file.write_text('{"step": 1, "loss": 2.0, "seconds": 40.0}\n{"step": 2, "loss": 1.0, "seconds": 80.0}\n')
    now = [100.0]
    speed = Speed(SampleCounts(), clock=lambda: now[0])
    callback, state = MetricsFile(speed), TrainerState(global_step=1, epoch=0.5, is_world_process_zero=True)
    told = (TrainingArguments(str(tmp_path), use_cpu=True), state, TrainerControl())
    callback.on_train_begin(*told)
    now[0] += 3
    assert speed.seconds == 43
    state.global_step = 2
    callback.on_log(*told, logs={"loss": 1.5, "grad_norm": float("inf")})
    lines = [json.loads(line, parse_constant=pytest.fail) for line in file.read_text().splitlines()]
    assert lines[1:] == [{"step": 2, "epoch": 0.5, "loss": 1.5, "grad_norm": None}]


def test_only_the_first_process_writes(tmp_path):
    callback, state = MetricsFile(Speed(SampleCounts())), TrainerState(is_world_process_zero=False)
    callback.on_log(TrainingArguments(str(tmp_path), use_cpu=True), state, TrainerControl(), logs={"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_losses_between_the_last_log_and_a_checkpoint_go_back_to_their_processes(tmp_path):
    state = TrainerState(global_step=5)
    UnloggedLoss(3, (0.1, 0.30000001192092896)).write(state)
    state.save_to_json(str(tmp_path / "state.json"))
    read = UnloggedLoss.read(TrainerState.load_from_json(str(tmp_path / "state.json")))
    assert read is not None
    assert read.last_logged_step == 3
    assert [read.of_process(0, 2), read.of_process(1, 2)] == [0.1, 0.30000001192092896]
    assert read.of_process(0, 1) == pytest.approx(0.2)
    assert UnloggedLoss.read(TrainerState()) is None
