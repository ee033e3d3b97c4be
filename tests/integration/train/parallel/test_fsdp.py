"""Sharded training with real torchrun: two processes over gloo, compared with one process and with each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llava.train import train
from tests.support.training import FSDP, LORA, STAGE_1, flags, history, result, run_in_processes, write_records

pytestmark = pytest.mark.slow

ORDER = ("--train_sampling_strategy", "sequential", "--max_grad_norm", "1e9")
ACCUMULATED = ("--gradient_accumulation_steps", "2")
STAGES = {
    "stage 1": STAGE_1,
    "stage 2": ("--mm_use_im_start_end", "True"),
    # Dropout would draw other numbers in each process.
    "LoRA": (*LORA, "--lora_dropout", "0", "--unfreeze_mm_vision_tower", "True"),
}
PARAMETERS = {"stage 1": 24, "stage 2": 23, "LoRA": 121}
SHARDED = {
    "sharded": FSDP,
    "kept after the forward pass": ("--fsdp", "shard_grad_op auto_wrap"),
    "in host memory": ("--fsdp", "full_shard auto_wrap offload"),
    "recomputed": (*FSDP, "--gradient_checkpointing", "True"),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[Path, str]:
    """All runs of this file: folder with an output folder for each, and what the processes printed."""
    work = tmp_path_factory.mktemp("fsdp")
    records = write_records(work / "train.json")
    alone = {"--lr_scheduler_type": "constant"}
    order = (*ORDER, *(word for pair in alone.items() for word in pair))
    runs = {}
    for stage, chosen in STAGES.items():
        # Four samples a step each: 4 x 1, 1 x 4 and 2 processes x 1 x 2.
        train.train(*train.parse(flags(records, work / f"{stage} whole", *chosen, *order, batch=4)))
        small = (*chosen, *order, "--gradient_accumulation_steps", "4")
        train.train(*train.parse(flags(records, work / f"{stage} accumulated", *small, batch=1)))
        for name, sharding in {"parallel": (), **SHARDED}.items():
            output = work / f"{stage} {name}"
            runs[output.name] = flags(records, output, *chosen, *order, *ACCUMULATED, *sharding, batch=1)
    result = run_in_processes(work, runs)
    return work, result.stdout


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["accumulated", "parallel", *SHARDED])
def test_losses_and_gradient_norms_are_those_of_one_process(outcome, stage, name):
    """Answers have unequal lengths, so a mean of means would differ; the spike measured 2e-6."""
    work, _ = outcome
    whole = history(work / f"{stage} whole", "loss", "grad_norm")
    parts = history(work / f"{stage} {name}", "loss", "grad_norm")
    assert [loss for loss, _ in parts] == pytest.approx([loss for loss, _ in whole], abs=1e-4)
    assert [norm for _, norm in parts] == pytest.approx([norm for _, norm in whole], rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["accumulated", "parallel", *SHARDED])
def test_the_result_is_that_of_one_process_under_the_same_names(outcome, stage, name):
    work, _ = outcome
    whole, parts = result(work / f"{stage} whole"), result(work / f"{stage} {name}")
    assert list(parts) == list(whole)
    # AdamW divides by the size of a gradient, so where that is near zero, rounding decides the step of 2e-3.
    for tensor, expected in whole.items():
        assert parts[tensor].dtype == expected.dtype
        # Attention does not depend on the bias of its keys at all.
        assert tensor.endswith("k_proj.bias") or (parts[tensor] - expected).abs().mean() < 1e-5, tensor


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", SHARDED)
def test_every_parameter_is_sharded_and_the_run_says_so(outcome, stage, name):
    _, printed = outcome
    part = printed.split(f"== {stage} {name}\n")[1].split("== ")[0]
    found = re.search(r"sharded (\d+) of (\d+) parameters over 2 processes", part)
    assert found
    assert found[1] == found[2] == str(PARAMETERS[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_data_parallel_runs_shard_nothing(outcome, stage):
    _, printed = outcome
    assert "sharded" not in printed.split(f"== {stage} parallel\n")[1].split("== ")[0]
