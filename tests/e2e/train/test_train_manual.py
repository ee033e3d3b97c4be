"""The commands that docs/training.md prints, run as printed: recipes, accelerate, several machines, DeepSpeed.

What is replaced: places of data, 8 processes by 2, and `node0` by this machine, where two launchers play two machines.
"""

from __future__ import annotations

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from llava.serve.service.server import free_port
from tests.support.markdown import commands_under
from tests.support.training import DATA, REPOSITORY, history, result, write_records
from tests.support.warm_python import warm_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def printed_under(section: str) -> list[str]:
    return commands_under(REPOSITORY / "docs" / "training.md", section, within="Training", languages=("bash",))


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A folder like a reader's clone, whose `./checkpoints` has a language model."""
    folder = tmp_path_factory.mktemp("manual")
    (folder / "checkpoints").mkdir()
    for name in ("llava", "scripts"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "checkpoints" / "llama-vicuna-7b").symlink_to(DATA / "llama-vicuna-tiny")
    records = json.loads(write_records(folder / "instructions.json", 16).read_text())
    (folder / "captions.json").write_text(json.dumps([record for record in records if "image" in record]))
    return folder


@pytest.fixture(scope="module")
def start(clone):
    """Starts a printed command in bash."""

    def run(command: str, **variables: str) -> subprocess.Popen[str]:
        command = command.replace("GPUS=8", "GPUS=2").replace("/path/to/images", str(DATA / "images"))
        command = re.sub(r"/path/to/(\w+\.json)", rf"{clone}/\1", command)
        environment = {
            **warm_environment(),
            "VISION_TOWER": str(DATA / "clip-tiny"),
            "MASTER_PORT": str(free_port()),
            "PYTHONPATH": str(REPOSITORY),
        }
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=clone,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def printed_by(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed[-4000:]
    return printed


@pytest.fixture(scope="module")
def stages(start) -> dict[str, str]:
    """What both stages of v1.5 print."""
    pretrain, finetune = printed_under("Recipes")
    return {"pretrain": printed_by(start(pretrain)), "finetune": printed_by(start(finetune))}


def test_both_stages_of_v1_5_train_a_model_of_v1_5(stages, clone):
    folder = clone / "checkpoints"
    names = [f"model.mm_projector.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]
    assert list(result(folder / "llava-v1.5-7b-pretrain")) == names
    config = json.loads((folder / "llava-v1.5-7b" / "config.json").read_text())
    assert (config["conv_mode"], config["mm_projector_type"]) == ("v1", "mlp2x_gelu")
    assert config["image_aspect_ratio"] == "pad"
    assert "sharded 25 of 25 parameters over 2 processes (FSDP2)" in stages["finetune"]
    assert "sharded" not in stages["pretrain"]


def test_accelerate_launch_shards_as_its_file_says(stages, start, clone):
    [command] = printed_under("Sharding")
    printed = printed_by(start(command))
    assert "FSDP: on, as `accelerate launch` asks for" in printed
    assert re.search(r"sharded (\d+) of \1 parameters over 2 processes", printed)
    assert (clone / "checkpoints" / "llava-v1.5-7b-lora" / "adapter_config.json").is_file()


def test_two_machines_train_as_two_processes_of_one_do(stages, start, clone):
    """Two launchers on this machine, one process each, meet through the address of the first."""
    settings, *machines = (line.partition("#")[0].strip() for line in printed_under("Several machines"))
    assert [line.split()[0] for line in machines] == ["NODE_RANK=0", "NODE_RANK=1"]
    output = clone / "checkpoints" / "two-machines"
    variables = {
        "MODEL": str(DATA / "llama-vicuna-tiny"),
        "DATA": str(clone / "instructions.json"),
        "IMAGES": str(DATA / "images"),
        "PROJECTOR": str(clone / "checkpoints" / "llava-v1.5-7b-pretrain" / "mm_projector.bin"),
        "OUTPUT": str(output),
        "GPUS": "1",
        "MASTER_PORT": str(free_port()),
    }
    here = settings.replace("node0", "127.0.0.1")
    started = [start(f"{here}; {line} --per_device_train_batch_size 8", **variables) for line in machines]
    first, second = (printed_by(process) for process in started)
    assert "sharded 25 of 25 parameters over 2 processes (FSDP2)" in first
    assert "[llava.train]" not in second, "the first machine speaks for all"
    assert history(output, "loss") == pytest.approx(history(clone / "checkpoints" / "llava-v1.5-7b", "loss"), abs=1e-4)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install '.[deepspeed]'")
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_a_recipe_runs_with_deepspeed(stages, start, clone, launcher):
    [command] = printed_under("DeepSpeed")
    variables = {
        "MODEL": str(DATA / "llama-vicuna-tiny"),
        "DATA": str(clone / "instructions.json"),
        "IMAGES": str(DATA / "images"),
        "PROJECTOR": str(clone / "checkpoints" / "llava-v1.5-7b-pretrain" / "mm_projector.bin"),
        "OUTPUT": str(clone / "checkpoints" / launcher),
        "LAUNCHER": launcher,
        "GPUS": "2",
    }
    printed = printed_by(start(f"{command} --per_device_train_batch_size 8", **variables))
    assert "sharded 25 of 25 parameters over 2 processes (DeepSpeed ZeRO-3)" in printed
    whole = history(clone / "checkpoints" / "llava-v1.5-7b", "loss")
    assert history(clone / "checkpoints" / launcher, "loss") == pytest.approx(whole, abs=1e-4)
