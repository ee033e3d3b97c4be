"""A run that is killed at any moment and started again ends exactly as one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.forked_runs import Job, Kill, Outcome, perform
from tests.support.training import FSDP, LORA, STAGE_1, flags, history, result, write_records

pytestmark = pytest.mark.slow

START_END = ("--mm_use_im_start_end", "True")
MODES: dict[str, tuple[int, tuple[str, ...]]] = {
    "projector": (1, STAGE_1),
    "whole": (1, START_END),
    "data-parallel": (2, (*START_END, "--group_by_modality_length", "True")),
    "sharded": (2, (*START_END, *FSDP)),
    "LoRA": (1, (*LORA, "--gradient_checkpointing", "True")),
    "sharded LoRA": (2, (*LORA, *FSDP)),
}
"""Name -> number of processes and flags."""

TRAINER = "llava.train.llava_trainer:LLaVATrainer"
MOMENTS = {
    "between steps": Kill(f"{TRAINER}.training_step", call=8),
    "during a save": Kill(f"{TRAINER}._save_rng_state", call=2),
    "during the final save": Kill("llava.train.checkpoints.folders:_move", call=2),
    "before a save is published": Kill("llava.train.checkpoints.folders:_publish", call=2),
    "before the end is marked": Kill("llava.train.train:_finish"),
}
"""Six steps of two accumulated batches; checkpoints after steps 2, 4 and 6."""

EVERYWHERE = ("between steps", "during a save", "during the final save")
MATRIX = [
    *((mode, moment) for mode in ("projector", "whole", "LoRA", "sharded", "sharded LoRA") for moment in EVERYWHERE),
    *(("whole", moment) for moment in MOMENTS if moment not in EVERYWHERE),
    ("data-parallel", "between steps"),
]


def command(records: Path, output: Path, mode: str) -> tuple[str, ...]:
    processes, chosen = MODES[mode]
    more = ("--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "2", "--warmup_ratio", "0.1")
    accumulated = ("--gradient_accumulation_steps", "2")
    return tuple(flags(records, output, *chosen, *more, *accumulated, batch=2 // processes))


FINISHED = ("projector", "LoRA", "sharded")


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[Path, dict[str, Outcome]]:
    """Each mode uninterrupted, and killed at each moment and then started again."""
    work = tmp_path_factory.mktemp("kill")
    records = write_records(work / "train.json")
    jobs = [
        Job(mode, command(records, work / f"{mode} whole", mode), processes) for mode, (processes, _) in MODES.items()
    ]
    for mode, moment in MATRIX:
        processes, _ = MODES[mode]
        again = command(records, work / f"{mode} {moment}", mode)
        jobs.append(Job(f"{mode} killed {moment}", again, processes, MOMENTS[moment]))
        jobs.append(Job(f"{mode} resumed {moment}", again, processes))
    for mode in FINISHED:
        processes, _ = MODES[mode]
        jobs.append(Job(f"{mode} again", command(records, work / f"{mode} whole", mode), processes))
    return work, perform(work, jobs)


@pytest.mark.parametrize(("mode", "moment"), MATRIX)
def test_a_killed_run_ends_bitwise_as_if_it_had_not_been(ended, mode, moment):
    work, outcomes = ended
    whole, resumed = work / f"{mode} whole", work / f"{mode} {moment}"
    killed = outcomes[f"{mode} killed {moment}"]
    assert killed.codes[0] == -9, killed.printed[-2000:]
    again = outcomes[f"{mode} resumed {moment}"]
    assert set(again.codes) == {0}, again.printed[-3000:]
    assert "resuming from" in again.printed
    fields = ("step", "loss", "grad_norm", "learning_rate")
    assert history(resumed, *fields) == history(whole, *fields)
    first, second = result(whole), result(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list(resumed.glob("*.partial"))


@pytest.mark.parametrize("mode", FINISHED)
def test_a_finished_run_says_so_and_does_nothing(ended, mode):
    _, outcomes = ended
    again = outcomes[f"{mode} again"]
    assert set(again.codes) == {0}
    assert again.printed.count("already finished (step 6 of 6)") == 1
    assert "training" not in again.printed.split("already finished")[1]
    assert "'loss'" not in again.printed
