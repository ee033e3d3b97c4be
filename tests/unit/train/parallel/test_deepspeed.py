"""Which checkpoints a run with or without DeepSpeed can resume from. The package itself is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.errors import CheckpointError
from llava.train.parallel.deepspeed import check_checkpoint
from llava.train.parallel.deepspeed_settings import DeepSpeed, read_deepspeed


def chosen(stage: int) -> DeepSpeed:
    settings = read_deepspeed({"zero_optimization": {"stage": stage}})
    assert settings is not None
    return settings


def checkpoint(folder: Path, stage: int, processes: int) -> Path:
    """Files of DeepSpeed's names."""
    state = folder / "global_step2"
    state.mkdir()
    (folder / "latest").write_text("global_step2")
    for rank in range(processes):
        (state / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
        if stage == 3:
            (state / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").touch()
    if stage < 3:
        (state / "mp_rank_00_model_states.pt").touch()
    return folder


@pytest.mark.parametrize(("written", "reads"), [(1, 1), (2, 2), (1, 2), (2, 1), (3, 3)])
def test_a_run_resumes_from_a_checkpoint_of_its_kind(tmp_path, written, reads):
    check_checkpoint(checkpoint(tmp_path, written, 4), chosen(reads), 4)


def test_a_run_without_deepspeed_resumes_from_a_checkpoint_without(tmp_path):
    check_checkpoint(tmp_path, None, 4)


@pytest.mark.parametrize(
    ("written", "reads", "processes", "message"),
    [
        (None, 2, 4, r"was written without --deepspeed\. Remove the flag, or start over"),
        (2, None, 4, r"was written with --deepspeed\. Set the flag, or start over"),
        (2, 3, 4, "written by ZeRO-1 or 2, which ZeRO-3 cannot read. Choose that stage in settings"),
        (3, 2, 4, "written by ZeRO-3, which ZeRO-2 cannot read"),
        (2, 2, 8, "written by 4 processes with --deepspeed, and only as many can read it; these are 8"),
    ],
)
def test_another_kind_is_an_error_that_names_both(tmp_path, written, reads, processes, message):
    folder = tmp_path if written is None else checkpoint(tmp_path, written, 4)
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(folder, None if reads is None else chosen(reads), processes)
