"""A weight that is NaN or infinite is named, with its file, before anything is answered or written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava.command_line import run
from llava.errors import WeightsNotFinite
from llava.model import consolidate, convert
from llava.model.builder import load_pretrained_model
from llava.model.weights.finite import is_finite
from llava.train import train
from tests.support.checkpoints import DATA, TOWER, copy_without_weights, golden_tensors
from tests.support.training import flags, write_records

TINY = DATA / "llava-v1.5-tiny"
NAME = "model.layers.1.mlp.down_proj.weight"


def broken(folder: Path, value: float = float("nan"), name: str = NAME) -> Path:
    """The golden v1.5 checkpoint with one value of one tensor replaced."""
    copy_without_weights(folder)
    tensors = golden_tensors()
    tensors[name].view(-1)[-3] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_loading_names_it(tmp_path, value, dtype):
    folder = broken(tmp_path / "model", value)
    with pytest.raises(WeightsNotFinite, match=rf"model\.safetensors: {NAME} holds NaN or infinite values \(1\)"):
        load_pretrained_model(folder, device="cpu", dtype=dtype, vision_tower=TOWER)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.mm_projector.0.bias", "model.embed_tokens.weight"])
def test_wherever_it_is(tmp_path, name):
    with pytest.raises(WeightsNotFinite, match=name):
        load_pretrained_model(broken(tmp_path / "model", name=name), device="cpu", vision_tower=TOWER)


def test_in_the_tower_too(tmp_path):
    shutil.copytree(TOWER, tmp_path / "tower", copy_function=shutil.copyfile)
    file = tmp_path / "tower" / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    name = next(name for name in tensors if "layers.0.mlp.fc1.weight" in name)
    tensors[name][0, 0] = float("nan")
    torch.save(tensors, file)
    with pytest.raises(WeightsNotFinite, match=r"tower: .*fc1\.weight holds NaN or infinite values \(1\)"):
        load_pretrained_model(TINY, device="cpu", vision_tower=tmp_path / "tower")


def test_training_names_it_before_the_first_step(tmp_path):
    folder = broken(tmp_path / "model")
    words = flags(write_records(tmp_path / "train.json"), tmp_path / "out", "--version", "v1", model=folder)
    with pytest.raises(WeightsNotFinite, match=NAME):
        train.train(*train.parse(words))


@pytest.mark.parametrize("tool", ["consolidate", "convert"])
def test_a_tool_writes_nothing(tmp_path, tool, capsys):
    folder, target = broken(tmp_path / "model"), tmp_path / "target"
    module, words = {
        "consolidate": (consolidate, ["--src", folder, "--dst", target]),
        "convert": (convert, ["--model-path", folder, "--output", target, "--vision-tower", TOWER]),
    }[tool]
    assert run(module.add_arguments, module.main, argv=list(map(str, words))) == 1
    assert NAME.removeprefix("model.") in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_large_and_empty_tensors_are_finite(dtype):
    """The sum of the first overflows."""
    assert is_finite(torch.full((5000,), torch.finfo(dtype).max).to(dtype))
    assert is_finite(torch.zeros(0, 3, dtype=dtype))
    assert not is_finite(torch.tensor([1.0, float("nan")]).to(dtype))
