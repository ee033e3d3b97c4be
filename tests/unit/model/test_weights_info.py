"""`llava weights info` says what a folder is and what it lacks."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from llava import pocket
from llava.command_line import run
from llava.errors import CheckpointError
from llava.model import make_delta, weights_info
from llava.model.weights_info import inspect
from tests.support.checkpoints import DATA, write_nested

V0, V15, BASE, DELTA = (
    DATA / name for name in ("llava-v0-tiny", "llava-v1.5-tiny", "llama-vicuna-tiny", "llava-v0-tiny-delta")
)


def test_the_embedded_model_lacks_nothing():
    info = inspect(pocket.find("tiny"))
    assert info.missing == []
    assert (info.era, info.template, info.context_tokens) == ("v0", "v0_train", 1024)
    assert info.dtype == "bfloat16"
    assert info.projector == "linear, 192 to 192"
    assert info.vision_tower.startswith("vision_tower/ in the folder")
    assert not info.is_delta


def test_generations_are_told_apart():
    assert inspect(V0).era == "v0"
    later = inspect(V15)
    assert (later.era, later.template, later.projector) == ("v1 and later", "llava_v1", "mlp2x_gelu, 64 to 64")
    assert inspect(BASE).kind == "language model without images"


def test_a_tower_that_is_nowhere_is_missing():
    assert any("vision tower 'clip-tiny'" in text for text in inspect(V15).missing)


def test_a_delta_is_told_from_a_model_by_its_norms(tmp_path):
    info = inspect(DELTA)
    assert info.is_delta
    assert info.kind.startswith("delta weights of a LLaVA")
    assert any("apply_delta" in text for text in info.missing)
    argv = ["--base", str(BASE), "--target", str(V0), "--delta", str(tmp_path / "d"), "--quiet"]
    assert run(make_delta.add_arguments, make_delta.main, argv=argv) == 0
    assert inspect(tmp_path / "d").base == "llama-vicuna-tiny"


def test_transformers_folders_hold_their_tower(tmp_path):
    write_nested(tmp_path)
    info = inspect(tmp_path)
    assert info.kind == "LLaVA in transformers' format"
    assert info.vision_tower.startswith("in the checkpoint, 56 pixels")
    assert info.missing == []


def test_a_projector_alone_needs_its_language_model(tmp_path):
    shutil.copyfile(V15 / "config.json", tmp_path / "config.json")
    torch.save({"model.mm_projector.0.weight": torch.zeros(64, 64)}, tmp_path / "mm_projector.bin")
    info = inspect(tmp_path)
    assert info.kind.startswith("projector")
    assert (info.parameters, info.files) == (64 * 64, "mm_projector.bin")
    assert any("--model-base" in text for text in info.missing)
    assert any("tokenizer" in text for text in info.missing)


def test_broken_weights_are_listed_not_raised(tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(V15, folder, copy_function=shutil.copyfile)
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    assert any("pytorch_model.bin" in text and "truncated" in text for text in inspect(folder).missing)


def test_a_folder_that_is_no_model_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        inspect(tmp_path)


def test_it_prints_lines_for_people_and_json_for_programs(capsys):
    tiny = str(pocket.find("tiny"))
    assert run(weights_info.add_arguments, weights_info.main, argv=[tiny]) == 0
    assert "million parameters" in capsys.readouterr().out
    assert run(weights_info.add_arguments, weights_info.main, argv=[tiny, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["era"] == "v0"
    assert run(weights_info.add_arguments, weights_info.main, argv=[str(DELTA)]) == 1
    assert "apply_delta" in capsys.readouterr().out
