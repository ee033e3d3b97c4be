"""The parts that make the embedded model: data, projector, assembly, order of the work."""

from __future__ import annotations

import argparse
import gzip
import json
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.errors import CheckpointError, DataError
from scripts.pocket import assemble, evaluate, fashion, make, projector, scenes
from scripts.pocket.training_state import load_state, save_state
from tests.support.photographs import write_photographs


@pytest.fixture
def photographs(tmp_path):
    return write_photographs(tmp_path)


def test_photographs_are_read_from_a_given_folder(photographs, tmp_path):
    pictures, labels = fashion.read(fashion.locate(tmp_path / "work", photographs), "test")
    assert pictures.shape == (2, 28, 28)
    assert labels.tolist() == [0, 1]
    assert pictures[1, 0, 0] == 28 * 28 % 256


def test_a_folder_without_photographs_says_what_to_install(tmp_path):
    with pytest.raises(fashion.PhotographsMissing, match="apt-get install dataset-fashion-mnist"):
        fashion.locate(tmp_path, tmp_path / "nothing")


def test_a_cut_file_of_photographs_is_an_error_that_names_it(photographs):
    name = fashion.FILES["test"][0]
    whole = gzip.decompress((photographs / name).read_bytes())
    (photographs / name).write_bytes(gzip.compress(whole[:-5]))
    with pytest.raises(DataError, match=name):
        fashion.read(photographs, "test")


def test_least_squares_finds_the_map_that_made_the_words():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 12, generator=generator) + 3
    matrix, bias = torch.randn(7, 12, generator=generator), torch.randn(7, generator=generator)
    wanted = features @ matrix.mT + bias
    found, shift = projector.solve(features, wanted, torch.ones(500))
    torch.testing.assert_close(features @ found.mT + shift, wanted, atol=0.05, rtol=0.01)


@pytest.fixture
def trained(tmp_path):
    """Folders as training leaves them, with weights that are tiny but real files."""
    model, tower = tmp_path / "stage2", tmp_path / "tower"
    for folder, config in (
        (model, {"mm_vision_tower": "/elsewhere/tower", "max_position_embeddings": 64}),
        (tower, {}),
    ):
        folder.mkdir()
        save_file({"weight": torch.tensor([1.0, 1.001]), "ids": torch.tensor([3])}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"dtype": "float32", **config}))
    (tower / "preprocessor_config.json").write_text("{}")
    for name in assemble.COPIED:
        (model / name).write_text(json.dumps({"is_local": True, "model_max_length": 512}))
    return tmp_path


def test_the_assembled_folder_is_half_precision_and_finds_its_tower_beside_it(trained):
    target = trained / "tiny"
    assemble.assemble(trained / "stage2", trained / "tower", target)
    weights = load_file(target / "model.safetensors")
    assert weights["weight"].dtype == torch.bfloat16
    assert weights["ids"].dtype == torch.int64
    config = json.loads((target / "config.json").read_text())
    assert config["mm_vision_tower"] == "vision_tower"
    assert config["dtype"] == "bfloat16"
    assert (target / "vision_tower" / "model.safetensors").is_file()
    settings = json.loads((target / "tokenizer_config.json").read_text())
    assert settings == {"model_max_length": 64}


def test_a_missing_part_is_an_error_that_names_it(trained):
    (trained / "tower" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"tower/model\.safetensors"):
        assemble.assemble(trained / "stage2", trained / "tower", trained / "tiny")


def test_a_model_too_large_to_embed_is_refused(trained, monkeypatch):
    monkeypatch.setattr(assemble, "LARGEST_BYTES", 10)
    with pytest.raises(CheckpointError, match="MB"):
        assemble.assemble(trained / "stage2", trained / "tower", trained / "tiny")


def test_a_training_goes_on_with_the_weights_and_the_momentum_that_it_has_saved(tmp_path):
    def begun() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters())

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    undisturbed, resumed = begun(), begun()
    assert load_state(tmp_path / "state.pt", *resumed) == (0, 0.0)
    step(*undisturbed)
    save_state(tmp_path / "state.pt", *undisturbed, 1, 2.5)
    assert load_state(tmp_path / "state.pt", *resumed) == (1, 2.5)
    step(*undisturbed)
    step(*resumed)
    assert torch.equal(undisturbed[0].weight, resumed[0].weight)


def test_all_parts_are_listed_with_their_state(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    make.add_arguments(parser)
    make.main(parser.parse_args(["--work", str(tmp_path), "--out", str(tmp_path / "tiny"), "--list"]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines][:2] == ["scenes", "tower"]
    assert all("open" in line for line in lines)


def test_the_table_counts_right_answers_by_kind_and_overall():
    cases = list(evaluate.scene_cases("watch", 2, 10, random.Random(0)))[:4]
    replies = [evaluate.Reply(case, case.question.sentence if index else "?") for index, case in enumerate(cases)]
    rows = evaluate.table(replies)
    assert [(row["right"], row["asked"]) for row in rows] == [(1, 2), (2, 2), (3, 4)]
    assert rows[-1]["percent"] == 75.0


def test_held_out_scenes_show_nothing_that_a_training_scene_shows_in_the_same_way():
    known = {scenes.sample(seed).key for seed in range(3000)}
    for case in evaluate.scene_cases("test", 20, 3000, random.Random(0)):
        assert int(case.subject) >= evaluate.FIRST_SEED["test"]
        assert scenes.sample(int(case.subject)).key not in known
