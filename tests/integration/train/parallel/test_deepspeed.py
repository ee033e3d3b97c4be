"""Training with DeepSpeed and real torchrun: two processes over gloo, compared with data-parallel training."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava.errors import CheckpointError, InvalidRequest
from llava.train import train
from llava.train.parallel.deepspeed import check_filled_in
from llava.train.parallel.deepspeed_settings import read_deepspeed
from tests.support.training import REPOSITORY, STAGE_1, flags, history, result, run_in_processes, write_records

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install '.[deepspeed]'"),
]

ORDER = ("--train_sampling_strategy", "sequential", "--gradient_accumulation_steps", "2")
SAVING = ("--save_strategy", "steps", "--save_steps", "1")
STAGES = {
    "stage 1": STAGE_1,
    "stage 2": ("--mm_use_im_start_end", "True"),
    "lora": ("--lora_enable", "True", "--lora_r", "4", "--lora_dropout", "0", "--mm_projector_lr", "1e-3"),
}
ZERO = ("zero2", "zero3")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[Path, str]:
    """All runs of this file: folder with an output folder for each, and what the processes printed."""
    work = tmp_path_factory.mktemp("deepspeed")
    records = write_records(work / "train.json")
    first, second = {}, {}
    held_out = write_records(work / "held out.json", 5)
    for stage, chosen in STAGES.items():
        chosen = (*chosen, "--eval_data_path", str(held_out), "--eval_strategy", "epoch")
        first[f"{stage} parallel"] = flags(records, work / f"{stage} parallel", *chosen, *ORDER, batch=1)
        for zero in ZERO:
            words = (*chosen, *ORDER, "--deepspeed", str(REPOSITORY / "scripts" / f"{zero}.json"), *SAVING)
            first[f"{stage} {zero}"] = flags(records, work / f"{stage} {zero}", *words, batch=1)
            second[f"{stage} {zero} resumed"] = flags(records, work / f"{stage} {zero} resumed", *words, batch=1)
    printed = run_in_processes(work, first).stdout
    for name in first:
        if "parallel" not in name:  # as if it had been killed after its second step
            shutil.copytree(work / name / "checkpoint-2", work / f"{name} resumed" / "checkpoint-2")
    return work, printed + run_in_processes(work, second).stdout


def validation_losses(output: Path) -> list[float]:
    state = json.loads((output / "trainer_state.json").read_text())
    return [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]


def part(printed: str, name: str) -> str:
    return printed.split(f"== {name}\n")[1].split("== ")[0]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("zero", ZERO)
def test_losses_and_gradient_norms_are_those_of_data_parallel_training(outcome, stage, zero):
    work, _ = outcome
    expected = history(work / f"{stage} parallel", "loss", "grad_norm")
    found = history(work / f"{stage} {zero}", "loss", "grad_norm")
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], abs=1e-4)
    assert [norm for _, norm in found] == pytest.approx([norm for _, norm in expected], rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("zero", ZERO)
def test_the_loss_of_held_out_records_is_that_of_data_parallel_training(outcome, stage, zero):
    work, _ = outcome
    found, expected = (validation_losses(work / f"{stage} {name}") for name in (zero, "parallel"))
    assert found == pytest.approx(expected, abs=1e-4)
    assert len(found) == 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("zero", ZERO)
def test_the_result_has_whole_tensors_under_the_same_names(outcome, stage, zero):
    work, _ = outcome
    expected, found = result(work / f"{stage} parallel"), result(work / f"{stage} {zero}")
    assert list(found) == list(expected)
    # AdamW divides by the size of a gradient, so where that is near zero, rounding decides the step of 2e-3.
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert (found[name] - tensor).abs().mean() < 1e-5, name


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("zero", ZERO)
def test_a_resumed_run_ends_bitwise_as_the_uninterrupted_one(outcome, stage, zero):
    work, printed = outcome
    assert "resuming from" in part(printed, f"{stage} {zero} resumed")
    assert history(work / f"{stage} {zero} resumed", "loss", "grad_norm") == history(
        work / f"{stage} {zero}", "loss", "grad_norm"
    )
    expected, found = result(work / f"{stage} {zero}"), result(work / f"{stage} {zero} resumed")
    assert {name: (found[name] - tensor).abs().max().item() for name, tensor in expected.items()} == dict.fromkeys(
        expected, 0.0
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("zero", ZERO)
def test_the_run_says_what_is_sharded(outcome, stage, zero):
    _, printed = outcome
    found = re.search(r"sharded .*?(\d+) of (\d+) parameters over 2 processes", part(printed, f"{stage} {zero}"))
    assert found
    assert found[1] == found[2]
    if stage != "lora":
        assert found[1] == {"stage 1 zero2": "3", "stage 1 zero3": "24"}.get(f"{stage} {zero}", "23")


def test_checkpoints_of_stage_1_hold_only_what_trains(outcome):
    work, _ = outcome
    size = sum(file.stat().st_size for file in (work / "stage 1 zero2" / "checkpoint-2").rglob("*.pt"))
    assert size < 300_000, "the frozen model alone has 1.4 MB"


def test_a_checkpoint_of_another_kind_of_run_is_refused_by_name(outcome, tmp_path):
    work, _ = outcome
    records = work / "train.json"
    words = (*STAGES["stage 2"], *ORDER, *SAVING)
    zero2 = ("--deepspeed", str(REPOSITORY / "scripts" / "zero2.json"))
    wanted = ("--resume_from_checkpoint", str(work / "stage 2 zero3" / "checkpoint-2"))
    runs = {"other": flags(records, tmp_path / "out", *words, *zero2, *wanted, batch=1)}
    done = run_in_processes(tmp_path, runs, check=False)
    assert "written by ZeRO-3, which ZeRO-2 cannot read" in done.stderr
    with pytest.raises(CheckpointError, match=r"was written with --deepspeed\. Set the flag"):
        train.train(*train.parse(flags(records, tmp_path / "out", *words, *wanted, batch=2)))


@pytest.mark.parametrize(
    ("more", "mismatches", "message"),
    [
        (
            {},
            ["- ds gradient_accumulation_steps=4 vs hf gradient_accumulation_steps=2"],
            r'gradient_accumulation_steps=4, but --gradient_accumulation_steps=2\. Write "auto" in the file',
        ),
        ({"reduce_bucket_sise": 5}, [], "zero_optimization.reduce_bucket_sise: Extra inputs are not permitted"),
        ({"overlap_comm": "often"}, [], "zero_optimization.overlap_comm: Input should be a valid boolean"),
    ],
)
def test_settings_that_contradict_the_flags_or_deepspeed_are_named(more, mismatches, message):
    chosen = read_deepspeed({"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", **more}})
    assert chosen is not None
    with pytest.raises(InvalidRequest, match=message):
        check_filled_in(chosen, SimpleNamespace(mismatches=mismatches))
