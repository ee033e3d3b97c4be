"""The training commands of README.md, run as printed: in their order, in one folder, with real torchrun.

What is replaced: places of models and data, 8 processes by 2, and the port. `./checkpoints` is that of the test.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llava.eval.convert_science_qa import TO_LLAVA, convert
from llava.serve.service.server import free_port
from tests.support.markdown import commands_under
from tests.support.science_qa import make_science_qa
from tests.support.training import DATA, REPOSITORY, history, result, write_records
from tests.support.warm_python import warm_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROCESSES = 2
NO_TOKENS = "llava-13b-pretrain-no_im_start_end_token"
SHARDED = rf"sharded 2[34] of 2[34] parameters over {PROCESSES} processes \(FSDP2\)"


def printed_under(section: str) -> list[str]:
    return commands_under(REPOSITORY / "README.md", section, within="Fine-tuning")


STAGE_1 = ("13B", "13B on one GPU", "7B on one GPU", "sharded")
PRETRAINING = dict(zip(STAGE_1, printed_under("Stage 1: pretraining the projector"), strict=True))
[EXTRACTION] = printed_under("Extract the projector")
[FINETUNING] = printed_under("Stage 2: visual instruction tuning")
THREE = ("pretraining", "extraction", "finetuning")
SCIENCE_QA = dict(zip(THREE, printed_under("Fine-tuning on ScienceQA"), strict=True))
OUTPUTS = {
    "pretrain": "llava-13b-pretrain",
    "small": "llava-7b-pretrain",
    "sharded": "llava-13b-pretrain_fsdp",
    "finetune": "",
}
"""Where a command writes, below `./checkpoints`."""


@dataclass
class Checkout:
    """A folder like a reader's clone, whose `./checkpoints` has a language model."""

    folder: Path
    places: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict)
    """Output of each command that ran, by name."""

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        for place in sorted(self.places, key=len, reverse=True):
            command = command.replace(place, self.places[place])
        command = re.sub(r"--master_port=\d+", f"--master_port={free_port()}", command)
        command = command.replace("--nproc_per_node=8", f"--nproc_per_node={PROCESSES}")
        assert "/path/to" not in command, "a place that this test has nothing for"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=warm_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def must_run(self, **commands: str) -> None:
        for name, command in commands.items():
            done = self.run(command)
            assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
            self.printed[name] = done.stdout


def checkout(folder: Path, places: dict[str, str]) -> Checkout:
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("llava", "scripts"):
        (folder / name).symlink_to(REPOSITORY / name)
    for size in ("7b", "13b"):
        shutil.copytree(DATA / "llama-vicuna-tiny", folder / "checkpoints" / f"llama-vicuna-{size}")
    common = {
        "openai/clip-vit-large-patch14": str(DATA / "clip-tiny"),
        "/path/to/llama-vicuna-13b": str(DATA / "llama-vicuna-tiny"),
    }
    return Checkout(folder, {**places, **common})


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Checkout:
    """Both stages, in the order of README; the variants on one GPU in folders of their own."""
    folder = tmp_path_factory.mktemp("recipe")
    records = write_records(folder / "records.json", 40)
    place = checkout(
        folder / "clone",
        {
            "/path/to/cc3m_595k.json": str(records),
            "/path/to/llava_instruct_150k.json": str(records),
            "/path/to/cc3m_595k": str(DATA / "images"),
            "/path/to/coco/train2017": str(DATA / "images"),
        },
    )
    place.must_run(pretrain=PRETRAINING["13B"], small=PRETRAINING["7B on one GPU"], sharded=PRETRAINING["sharded"])
    place.must_run(extract=EXTRACTION, finetune=FINETUNING)
    return place


@pytest.fixture(scope="module")
def science_qa(tmp_path_factory) -> Checkout:
    """The three commands for ScienceQA, on a file that the project's own converter wrote."""
    folder = tmp_path_factory.mktemp("science_qa")
    data = make_science_qa(folder / "data", 12)
    (data / "images" / "test").rename(data / "images" / "train")
    (data / "pid_splits.json").write_text(json.dumps({"train": [str(number) for number in range(1, 13)]}))
    convert(TO_LLAVA, str(data), ["train"], "QCM-LEPA")
    place = checkout(
        folder / "clone",
        {
            "/path/to/cc3m_595k.json": str(write_records(folder / "records.json")),
            "/path/to/cc3m_595k": str(DATA / "images"),
            "/path/to/scienceqa": str(data),
        },
    )
    place.must_run(**SCIENCE_QA)
    return place


def test_readme_prints_seven_trainings_and_two_extractions():
    printed = [*PRETRAINING.values(), FINETUNING, SCIENCE_QA["pretraining"], SCIENCE_QA["finetuning"]]
    assert len(printed) == 7
    assert all("llava/train/train_mem.py" in command for command in printed)
    assert sum("--fsdp " in command for command in printed) == 3
    assert [shlex.split(command)[1] for command in (EXTRACTION, SCIENCE_QA["extraction"])] == [
        "scripts/extract_mm_projector.py"
    ] * 2


def test_stage_1_writes_a_projector_that_stage_2_starts_from(recipe):
    folder = recipe.folder / "checkpoints"
    projector = result(folder / "llava-13b-pretrain")
    assert list(projector) == ["model.embed_tokens.weight", "model.mm_projector.weight", "model.mm_projector.bias"]
    assert (folder / "mm_projector" / "llava-13b-pretrain.bin").is_file()
    assert (folder / "config.json").is_file(), "the original saves stage 2 to ./checkpoints itself"
    assert "model.layers.0.mlp.up_proj.weight" in result(folder)


def test_every_record_is_trained_on_as_often_as_there_are_epochs(recipe):
    """Counted over all processes; 40 records are 2 steps of 2 x 16, and 5 steps of 2 x 4 in each of 3 epochs."""
    steps = {name: len(history(recipe.folder / "checkpoints" / path, "loss")) for name, path in OUTPUTS.items()}
    assert steps == {"pretrain": 2, "small": 1, "sharded": 2, "finetune": 15}


def test_what_is_printed_with_fsdp_is_sharded_and_learns_the_same(recipe):
    assert re.search(SHARDED, recipe.printed["finetune"])
    assert re.search(SHARDED, recipe.printed["sharded"])
    assert "sharded" not in recipe.printed["pretrain"]
    outputs = [recipe.folder / "checkpoints" / OUTPUTS[name] for name in ("pretrain", "sharded")]
    whole, sharded = (history(output, "loss") for output in outputs)
    assert sharded == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_each_thing_that_was_changed_is_said_once(recipe, name):
    for flag in ("--evaluation_strategy no", "--warmup_ratio 0.03", "--bf16: ignored", "--tf32: ignored"):
        assert recipe.printed[name].count(flag) == 1


def test_the_same_command_on_one_gpu_does_not_mix_with_the_run_in_its_folder(recipe):
    """Both print the same --output_dir; with 2 processes instead of 8 they also differ in the size of a step."""
    done = recipe.run(PRETRAINING["13B on one GPU"])
    assert done.returncode == 1
    assert "is the result of another run (a step had 32 samples" in done.stderr
    assert "now 128). Choose another --output_dir, or start over" in done.stderr
    other = PRETRAINING["13B on one GPU"].replace("llava-13b-pretrain ", "llava-13b-pretrain-1 ")
    recipe.must_run(one=other)
    assert len(history(recipe.folder / "checkpoints" / "llava-13b-pretrain-1", "loss")) == 1


def test_a_finished_command_says_so_and_changes_nothing(recipe):
    file = recipe.folder / "checkpoints" / "llava-13b-pretrain" / "mm_projector.bin"
    before = file.stat().st_mtime_ns
    done = recipe.run(PRETRAINING["13B"])
    assert done.returncode == 0
    assert "already finished (step 2 of 2)" in done.stdout
    assert file.stat().st_mtime_ns == before


def test_scienceqa_trains_without_start_and_end_tokens_and_sharded(science_qa):
    folder = science_qa.folder / "checkpoints"
    assert list(result(folder / NO_TOKENS)) == ["model.mm_projector.weight", "model.mm_projector.bias"]
    assert re.search(SHARDED, science_qa.printed["finetuning"])
    losses = history(folder / f"{NO_TOKENS}-finetune_scienceqa", "loss")
    assert len(losses) == 12 * 2
    assert losses[-1] < losses[0]
