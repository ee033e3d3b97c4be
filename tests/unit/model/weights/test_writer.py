"""A model folder is written whole or not at all, and reads back as what was given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llava.errors import CheckpointError, InvalidRequest, NotFinite
from llava.model.weights.reader import open_checkpoint
from llava.model.weights.writer import CheckpointWriter, TensorSpec


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.embed_tokens.weight": torch.randn(40, 8, generator=generator).to(torch.bfloat16),
        "model.norm.weight": torch.randn(8, generator=generator),
        "model.scale": torch.tensor(3.5, dtype=torch.float16),
        "model.ids": torch.arange(5),
        "model.none": torch.zeros(0, 8),
        "lm_head.weight": torch.randn(40, 8, generator=generator).to(torch.float16),
    }


def specs_for(tensors: dict[str, torch.Tensor]) -> list[TensorSpec]:
    return [TensorSpec(name, tuple(value.shape), value.dtype) for name, value in tensors.items()]


def write(target: Path, tensors: dict[str, torch.Tensor], **options) -> None:
    with CheckpointWriter(target, specs_for(tensors), **options) as writer:
        for name, value in tensors.items():
            writer.write(name, [value])
        writer.write_json("config.json", {"model_type": "llama"})
        writer.finish()


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_safetensors_reads_what_was_written(tmp_path):
    tensors = some_tensors()
    write(tmp_path / "model", tensors)
    assert left_in(tmp_path / "model") == ["config.json", "model.safetensors"]
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses files without it
    assert left_in(tmp_path) == ["model"]


def test_shards_are_named_and_indexed_as_transformers_does(tmp_path):
    tensors = some_tensors()
    write(tmp_path / "model", tensors, max_shard_bytes=700)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert names == [f"model-0000{i}-of-0000{len(names)}.safetensors" for i in range(1, len(names) + 1)]
    assert len(names) > 1
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    checkpoint = open_checkpoint(tmp_path / "model")
    assert all(torch.equal(checkpoint.tensor(name), value) for name, value in tensors.items())


def test_a_tensor_may_come_in_blocks_of_rows(tmp_path):
    value = torch.arange(60.0).reshape(10, 6)
    with CheckpointWriter(tmp_path / "m", [TensorSpec("a", (10, 6), torch.float32)]) as writer:
        writer.write("a", (value[first : first + 3] for first in range(0, 10, 3)))
        writer.finish()
    checkpoint = open_checkpoint(tmp_path / "m")
    assert torch.equal(checkpoint.tensor("a"), value)
    ranges = checkpoint.row_ranges("a", limit_bytes=4 * 6 * 4)
    assert ranges == [(0, 4), (4, 8), (8, 10)]
    assert torch.equal(torch.cat([checkpoint.rows("a", *each) for each in ranges]), value)


def interrupted(target: Path, tensors: dict[str, torch.Tensor]) -> None:
    with CheckpointWriter(target, specs_for(tensors)) as writer:
        writer.write("model.embed_tokens.weight", [tensors["model.embed_tokens.weight"]])
        raise RuntimeError("power cut")


def test_an_error_halfway_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        interrupted(tmp_path / "model", some_tensors())
    assert left_in(tmp_path) == []


def test_leaving_without_finish_leaves_nothing(tmp_path):
    with CheckpointWriter(tmp_path / "model", specs_for(some_tensors())):
        pass
    assert left_in(tmp_path) == []


def test_an_existing_target_is_refused_unless_it_may_be_replaced(tmp_path):
    tensors = some_tensors()
    write(tmp_path / "model", tensors)
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidRequest, match=r"already exists.*--overwrite"):
        write(tmp_path / "model", tensors)
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    write(tmp_path / "model", {"a": torch.ones(2)}, overwrite=True)
    assert list(open_checkpoint(tmp_path / "model")) == ["a"]
    assert left_in(tmp_path) == ["model"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path):
    write(tmp_path / "model", {"a": torch.ones(2)})
    with pytest.raises(NotFinite):
        write(tmp_path / "model", {"a": torch.tensor([1.0, float("nan")])}, overwrite=True)
    assert torch.equal(open_checkpoint(tmp_path / "model").tensor("a"), torch.ones(2))
    assert left_in(tmp_path) == ["model"]


def test_a_file_of_the_target_s_name_is_refused(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(InvalidRequest, match="is not a folder"):
        write(tmp_path / "model", some_tensors())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_names_its_tensor(tmp_path, wrong):
    tensors = some_tensors()
    tensors["lm_head.weight"][3, 3] = wrong
    with pytest.raises(NotFinite, match=r"lm_head\.weight: 1 of its values"):
        write(tmp_path / "model", tensors)
    assert left_in(tmp_path) == []


def test_large_finite_values_are_not_taken_for_infinite(tmp_path):
    tensors = {"a": torch.full((10, 10), 3e38), "b": torch.full((10, 10), 65000.0, dtype=torch.float16)}
    write(tmp_path / "model", tensors)  # their sums overflow
    assert torch.equal(open_checkpoint(tmp_path / "model").tensor("a"), tensors["a"])


def test_too_little_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=33_000_000))
    big = TensorSpec("a", (1000, 1000), torch.float32)
    with (
        pytest.raises(CheckpointError, match=r"needs 4\.0 MB, but the disk has only 33\.0 MB left"),
        CheckpointWriter(tmp_path / "model", [big]),
    ):
        pass
    assert left_in(tmp_path) == []


def write_to_a_full_disk(target: Path) -> None:
    """/dev/full takes no byte, as a full disk."""
    with CheckpointWriter(target, [TensorSpec("a", (100, 100), torch.float32)]) as writer:
        (writer.folder / "model.safetensors").symlink_to("/dev/full")
        writer.write("a", [torch.ones(100, 100)])
        writer.finish()


def test_a_disk_that_fills_up_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="the disk is full"):
        write_to_a_full_disk(tmp_path / "model")
    assert left_in(tmp_path) == []


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path):
    stale = tmp_path / ".model.incomplete"
    (stale / "vision_tower").mkdir(parents=True)
    (stale / "model-00001-of-00002.safetensors").write_bytes(b"half")
    write(tmp_path / "model", {"a": torch.ones(2)})
    assert left_in(tmp_path) == ["model"]
    assert left_in(tmp_path / "model") == ["config.json", "model.safetensors"]
