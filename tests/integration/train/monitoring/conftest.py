"""Runs of two processes that several tests look at, because starting them takes longer than they do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.support.forked_runs import Job, Kill, Outcome, perform
from tests.support.training import DATA, FSDP, STAGE_1, flags, write_records

TOKEN_OF_A_TIP = 786
"""A token of "Give a tip.", the question of records 3, 7 and 11, and of no other text."""


@pytest.fixture(scope="session")
def poisoned_model(tmp_path_factory) -> Path:
    """A language model that cannot read "Give a tip.": one of its embeddings is not a number."""
    folder = tmp_path_factory.mktemp("poisoned") / "llama-vicuna-tiny"
    shutil.copytree(DATA / "llama-vicuna-tiny", folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights["model.embed_tokens.weight"][TOKEN_OF_A_TIP] = float("nan")
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory, poisoned_model) -> tuple[Path, dict[str, Outcome]]:
    """The folder of runs of two processes, and how each ended."""
    work = tmp_path_factory.mktemp("two")
    training, records = write_records(work / "short.json", 4), write_records(work / "train.json")
    held_out = ("--eval_data_path", str(write_records(work / "held_out.json", 11)))
    measured = (*STAGE_1, *held_out, "--eval_on_start", "True", "--per_device_eval_batch_size", "2")
    often = ("--save_strategy", "steps", "--save_steps", "1")
    # The first step has a learning rate of 0, and the second one ruins the model.
    best = (*held_out, *often, "--load_best_model_at_end", "True", "--mm_use_im_start_end", "True", "--max_steps", "2")
    best += ("--learning_rate", "3", "--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "2")
    poisoned = ("--model_name_or_path", str(poisoned_model), "--tune_mm_mlp_adapter", "True", "--version", "v1")
    poisoned += ("--mm_use_im_patch_token", "False", "--train_sampling_strategy", "sequential", *often)
    seldom = (*STAGE_1, "--logging_steps", "3", "--save_strategy", "steps", "--save_steps", "2")
    jobs = []
    for name, sharding in {"parallel": (), "sharded": FSDP}.items():
        jobs += [
            Job(name, tuple(flags(training, work / name, *measured, *sharding, batch=2)), 2),
            Job(f"best {name}", tuple(flags(records, work / f"best {name}", *best, *sharding, batch=2)), 2),
            Job(
                f"poisoned {name}",
                tuple(flags(records, work / f"poisoned {name}", *poisoned, *sharding, batch=1)),
                processes=2,
                loads_any_value=True,
            ),
        ]
    for name in ("whole", "parts"):
        command = tuple(flags(records, work / name, *seldom, "--num_train_epochs", "2", batch=2))
        if name == "parts":
            kill = Kill("llava.train.llava_trainer:LLaVATrainer.training_step", call=6, rank=1)
            jobs.append(Job("killed", command, 2, kill))
        jobs.append(Job(name, command, 2))
    return work, perform(work, jobs)
