"""The history of a run in one file."""

from __future__ import annotations

import json

import pytest

from llava.train.monitoring.metrics import duration, keep_until


def test_a_resumed_run_continues_the_history_where_its_checkpoint_was(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    file.write_text("\n".join(json.dumps(line) for line in [*lines, {"step": 3, "train_runtime": 5}]) + '\n{"st')
    keep_until(file, 2)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]
    keep_until(file, 0)
    assert file.read_text() == ""
    keep_until(tmp_path / "none.jsonl", 1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (61, "1 min 01 s"), (3599.7, "1 h 00 min"), (90_000, "25 h 00 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
