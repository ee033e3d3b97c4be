"""What a run prints while it trains."""

from __future__ import annotations

import io

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from llava.train.monitoring.progress import ProgressDisplay, duration
from llava.train.monitoring.sample_counts import SampleCounts
from llava.train.monitoring.speed import Speed

LOGS = {
    "loss": 2.34567,
    "grad_norm": 0.51,
    "learning_rate": 2e-5,
    "samples_per_second": 12.34,
    "supervised_tokens_per_second": 4321.0,
    "memory_gb": 7.89,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Told:
    """A callback that is told of a run of 200 steps, two seconds each."""

    def __init__(self, stream: io.StringIO, work, *, start: int = 0, first: bool = True, disable_tqdm=False) -> None:
        self.now, self.stream = 0.0, stream
        self.progress = ProgressDisplay(Speed(SampleCounts()), stream=stream, clock=lambda: self.now)
        self.state = TrainerState(global_step=start, max_steps=200, is_world_process_zero=first)
        self.control = TrainerControl()
        self.args = TrainingArguments(str(work), use_cpu=True, disable_tqdm=disable_tqdm)
        self.progress.on_train_begin(self.args, self.state, self.control)

    def step(self, *, logs: dict | None = None, seconds: float = 2.0) -> None:
        self.now += seconds
        self.state.global_step += 1
        self.control.should_log = logs is not None
        self.progress.on_step_end(self.args, self.state, self.control)
        if logs is not None:
            self.progress.on_log(self.args, self.state, self.control, logs=dict(logs))


def test_a_pipe_gets_one_plain_line_per_logged_step(tmp_path):
    told = Told(io.StringIO(), tmp_path)
    for _ in range(9):
        told.step()
    told.step(logs=LOGS)
    begin, line = told.stream.getvalue().splitlines()
    assert begin == "[llava.train] training: 200 steps (--num_train_epochs 3)"
    assert line == (
        "[llava.train] step 10/200 (5 %), loss 2.3457, gradient norm 0.51, learning rate 2e-05, 12.3 samples/s, "
        "4,321 supervised tokens/s, 7.9 GB, 6 min 20 s left"
    )
    assert "\r" not in told.stream.getvalue()


def test_a_pipe_is_never_silent_for_long(tmp_path):
    told = Told(io.StringIO(), tmp_path)
    for _ in range(4):
        told.step(seconds=25)
    lines = told.stream.getvalue().splitlines()[1:]
    assert len(lines) == 1
    assert lines[0].startswith("[llava.train] step 3/200 (2 %), 0.0 samples/s")


def test_the_time_left_of_a_resumed_run_is_judged_by_its_own_steps(tmp_path):
    told = Told(io.StringIO(), tmp_path, start=100)
    told.step(logs=LOGS)
    begin, line = told.stream.getvalue().splitlines()
    assert "200 steps from step 101" in begin
    assert line.endswith("3 min 18 s left")


def test_a_terminal_gets_one_bar_and_results_of_validation_above_it(tmp_path):
    told = Told(Terminal(), tmp_path)
    for _ in range(3):
        told.step(logs=LOGS)
    result = {"eval_loss": 1.5, "eval_perplexity": 4.4817, "eval_samples": 1100}
    told.progress.on_log(told.args, told.state, told.control, logs=result)
    told.progress.close()
    printed = told.stream.getvalue()
    assert printed.count("\r") >= 3
    last = printed.rstrip("\n").split("\r")[-1]
    assert "3/200 steps" in last
    assert "loss 2.3457" in last
    whole_lines = [line.rsplit("\r", 1)[-1] for line in printed.splitlines()]
    assert "[llava.train] step 3/200 (2 %), validation loss 1.5000, perplexity 4.482 (1,100 samples)" in whole_lines
    assert not any(line.startswith("[llava.train] step 1/") for line in whole_lines)


def test_a_terminal_without_bars_gets_the_lines_of_a_pipe(tmp_path):
    told = Told(Terminal(), tmp_path, disable_tqdm=True)
    told.step(logs=LOGS)
    assert "\r" not in told.stream.getvalue()
    assert "step 1/200" in told.stream.getvalue()


def test_other_processes_print_nothing(tmp_path):
    told = Told(io.StringIO(), tmp_path, first=False)
    told.step(logs=LOGS, seconds=100)
    told.step(seconds=100)
    assert told.stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (61, "1 min 01 s"), (3599.7, "1 h 00 min"), (90_000, "25 h 00 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
