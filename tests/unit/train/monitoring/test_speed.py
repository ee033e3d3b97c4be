"""Rates of a run."""

from __future__ import annotations

import torch

from llava.train.monitoring.sample_counts import SampleCounts
from llava.train.monitoring.speed import Speed, largest, peak_memory


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_those_since_the_last_log_and_leave_validation_and_saving_out():
    clock, counts = Clock(), SampleCounts()
    speed = Speed(counts, clock=clock)
    clock.now += 500  # loading the model is not training
    speed.start()
    clock.now += 10
    counts.seen, counts.supervised, counts.tokens = 40, 300, 4000
    first = speed.rates()
    assert first == {
        "samples_per_second": 4.0,
        "supervised_tokens_per_second": 30.0,
        "tokens_per_second": 400.0,
    }
    with speed.paused():
        clock.now += 90
    clock.now += 5
    counts.seen += 40
    assert speed.rates(restart=False)["samples_per_second"] == 8.0
    assert speed.rates()["samples_per_second"] == 8.0
    assert speed.total()["samples_per_second"] == round(80 / 15, 3)
    assert speed.seconds == 105


def test_memory_is_that_of_the_process_and_the_largest_of_all():
    block = bytearray(50_000_000)
    memory = peak_memory(torch.device("cpu"))
    assert len(block) / 1e9 < memory["memory_gb"] < 64
    assert largest(memory, processes=1, device=torch.device("cpu")) == memory
