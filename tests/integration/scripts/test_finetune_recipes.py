"""The shell recipes in scripts/: what each would start. Launchers are replaced by one that writes down its words."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from llava.errors import InvalidRequest
from llava.train import train
from llava.train.parallel.sharding import sharding_of_words
from tests.support.markdown import commands_under
from tests.support.training import DATA, REPOSITORY

SCRIPTS = REPOSITORY / "scripts"
LAUNCHERS = ("torchrun", "deepspeed", "accelerate", "nvidia-smi", "srun", "scontrol")
PROGRAM = "llava/train/train_mem.py"

RECIPES = sorted(
    str(file.relative_to(SCRIPTS))
    for file in (*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("v1_5/*.sh"))
    if "launch.sh" in file.read_text() and file.name != "launch.sh"
)
REPLICATED = {"pretrain.sh", "pretrain_sqa.sh", "v1_5/pretrain.sh", "finetune_qlora.sh"}
MODELS = {"MODEL": DATA / "llama-vicuna-tiny", "VISION_TOWER": DATA / "clip-tiny", "DATA": "d.json", "IMAGES": "i"}


@pytest.fixture
def started(tmp_path: Path):
    """Runs a recipe; returns the words that it started a launcher with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in LAUNCHERS:
        program = programs / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\0" {name} "$@" > "$STARTED"\n')
        program.chmod(0o755)
    (programs / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0\necho GPU 1\n")
    (programs / "scontrol").write_text("#!/bin/sh\necho node7\necho node8\n")
    # Slurm starts the command on each node, with its number.
    (programs / "srun").write_text('#!/bin/sh\nSLURM_NODEID=1 exec "$@"\n')

    def run(*command: str, **variables: object) -> list[str]:
        done = subprocess.run(
            ["bash", *command],
            cwd=REPOSITORY,
            env={
                **{name: value for name, value in os.environ.items() if name not in ("GPUS", "DEEPSPEED")},
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "STARTED": str(tmp_path / "started"),
                **{name: str(value) for name, value in variables.items()},
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return (tmp_path / "started").read_text().split("\0")[:-1]

    return run


def flags_of(words: list[str]) -> list[str]:
    return words[words.index(PROGRAM) + 1 :]


def test_the_recipes_have_the_originals_names():
    assert RECIPES == [
        "finetune.sh",
        "finetune_full_schedule.sh",
        "finetune_lora.sh",
        "finetune_qlora.sh",
        "finetune_sqa.sh",
        "pretrain.sh",
        "pretrain_sqa.sh",
        "v1_5/finetune.sh",
        "v1_5/finetune_lora.sh",
        "v1_5/finetune_task_lora.sh",
        "v1_5/pretrain.sh",
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_flag_of_a_recipe_parses_and_what_needs_it_is_sharded(recipe, started, monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    words = started(f"scripts/{recipe}", "--output_dir", "mine", **MODELS)
    assert words[:4] == ["torchrun", "--nnodes=1", "--node_rank=0", "--nproc_per_node=2"], "a process for each GPU"
    flags = flags_of(words)
    model, data, training = train.parse(flags)
    assert (sharding_of_words(flags) is not None) == (recipe not in REPLICATED)
    assert training.output_dir == "mine", "flags that follow override those of the recipe"
    assert (data.data_path, data.image_folder) == ("d.json", "i")
    assert model.tune_mm_mlp_adapter == ("pretrain" in recipe)
    assert model.tune_mm_mlp_adapter or model.pretrain_mm_mlp_adapter or "task" in recipe
    assert (training.lora is not None) == ("lora" in recipe)


def test_the_recipes_for_scienceqa_are_the_commands_of_readme(started):
    pretraining, _, finetuning = commands_under(
        REPOSITORY / "README.md", "Fine-tuning on ScienceQA", within="Fine-tuning"
    )
    for recipe, command in (("pretrain_sqa", pretraining), ("finetune_sqa", finetuning)):
        words = started(f"scripts/{recipe}.sh", GPUS=8, MODEL="M")
        recipe_run, printed_run = (train.parse(flags_of(chosen)) for chosen in (words, shlex.split(command)))
        for ours, printed in zip(recipe_run[:2], printed_run[:2], strict=True):
            ignored = {"model_name_or_path", "pretrain_mm_mlp_adapter"}
            ours_by_name, printed_by_name = asdict(ours), asdict(printed)
            assert {name for name in ours_by_name if ours_by_name[name] != printed_by_name[name]} <= ignored
        for name in ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "save_steps", "warmup_steps"):
            assert getattr(recipe_run[2], name) == getattr(printed_run[2], name)


def test_deepspeed_takes_the_place_of_fsdp(started):
    words = started("scripts/v1_5/finetune.sh", DEEPSPEED="scripts/zero3.json")
    assert flags_of(words)[:2] == ["--deepspeed", "scripts/zero3.json"]
    assert "--fsdp" not in words
    words = started("scripts/v1_5/pretrain.sh", DEEPSPEED="scripts/zero2.json", LAUNCHER="deepspeed", GPUS=4)
    assert words[:3] == ["deepspeed", "--num_gpus=4", "--master_port=25001"]
    assert flags_of(words)[:2] == ["--deepspeed", "scripts/zero2.json"]


def test_accelerate_is_told_the_processes_and_its_file_the_sharding(started):
    words = started("scripts/accelerate.sh", "scripts/finetune.sh", "--max_steps", "5", GPUS=4)
    assert words[:4] == ["accelerate", "launch", "--config_file", "scripts/accelerate_fsdp2.yaml"]
    assert words[words.index("--num_processes") + 1] == "4"
    assert "--fsdp" not in words
    assert words[-2:] == ["--max_steps", "5"]


def test_several_machines_agree_on_the_first(started):
    node = {"NNODES": 2, "MASTER_ADDR": "node0", "GPUS": 8}
    words = started("scripts/multinode_torchrun.sh", "scripts/finetune.sh", "--max_steps", "5", NODE_RANK=1, **node)
    assert words[1:6] == [
        *("--nnodes=2", "--node_rank=1", "--nproc_per_node=8", "--master_addr=node0", "--master_port=25001"),
    ]
    assert words[-2:] == ["--max_steps", "5"]


def test_a_slurm_job_gives_each_node_its_number(started):
    job = {"SLURM_JOB_NUM_NODES": 2, "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": 123456, "SLURM_GPUS_ON_NODE": 8}
    words = started("scripts/slurm.sbatch", "scripts/finetune.sh", "--max_steps", "5", **job)
    assert words[1:6] == [
        *("--nnodes=2", "--node_rank=1", "--nproc_per_node=8", "--master_addr=node7", "--master_port=23456"),
    ]
    assert words[-2:] == ["--max_steps", "5"]


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload"])
def test_deepspeeds_own_classes_accept_the_files(name):
    deepspeed = pytest.importorskip("deepspeed.runtime.zero.config", reason="deepspeed is not installed")
    zero = json.loads((SCRIPTS / f"{name}.json").read_text())["zero_optimization"]
    deepspeed.DeepSpeedZeroConfig(**{key: value for key, value in zero.items() if value != "auto"})


def test_quantised_training_is_refused_where_it_cannot_run(started):
    from llava.train.setup.flag_check import check_flags

    model, _, training = train.parse(flags_of(started("scripts/finetune_qlora.sh", **MODELS)))
    if training.device.type != "cuda":
        with pytest.raises(InvalidRequest, match="--bits 4 needs an NVIDIA GPU"):
            check_flags(model, training)
