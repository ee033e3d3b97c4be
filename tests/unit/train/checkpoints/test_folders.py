"""Folders that appear whole or not at all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llava.errors import InvalidRequest
from llava.train.checkpoints import folders
from llava.train.checkpoints.folders import check_space, checkpoints, move_into, remove_partial, whole_folder


def written(folder, text: str, *, fails: bool = False) -> None:
    with whole_folder(folder, first=True, leads=True, wait=lambda: None) as partial:
        (partial / "file").write_text(text)
        assert not (folder / "file").exists() or (folder / "file").read_text() != text
        if fails:
            raise KeyboardInterrupt


def test_a_folder_has_its_name_only_when_it_is_complete(tmp_path):
    written(tmp_path / "checkpoint-1", "whole")
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "checkpoint-2", "half", fails=True)
    assert [step for step, _ in checkpoints(tmp_path)] == [1]
    remove_partial(tmp_path)
    assert [child.name for child in tmp_path.iterdir()] == ["checkpoint-1"]


def test_an_earlier_folder_of_the_same_name_is_replaced(tmp_path):
    written(tmp_path / "checkpoint-1", "old")
    written(tmp_path / "checkpoint-1", "new")
    assert (tmp_path / "checkpoint-1" / "file").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_machine_with_a_disk_of_its_own_renames_its_part_too(tmp_path):
    with whole_folder(tmp_path / "checkpoint-1", first=False, leads=True, wait=lambda: None) as partial:
        (partial / "file").write_text("mine")
    assert (tmp_path / "checkpoint-1" / "file").read_text() == "mine"


def test_files_of_a_result_replace_those_of_an_earlier_one(tmp_path):
    (tmp_path / "model").write_text("old")
    (tmp_path / "other").write_text("stays")
    partial = tmp_path / "result.partial"
    partial.mkdir()
    (partial / "model").write_text("new")
    (partial / "vision_tower").mkdir()
    move_into(partial, tmp_path)
    assert (tmp_path / "model").read_text() == "new"
    assert (tmp_path / "other").read_text() == "stays"
    assert (tmp_path / "vision_tower").is_dir()
    assert not partial.exists()


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000_000))
    check_space(tmp_path / "run", 2_900_000_000, "the result")
    with pytest.raises(InvalidRequest, match=r"the result take about 3\.1 GB, but only 3\.0 GB are free"):
        check_space(tmp_path / "run", 3_100_000_000, "the result")


def test_a_place_that_cannot_be_written_to_is_noticed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        check_space(tmp_path / "file" / "run", 1, "the result")
