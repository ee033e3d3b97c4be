"""Folders that appear whole or not at all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llava.errors import InvalidRequest
from llava.train.checkpoints import folders
from llava.train.checkpoints.folders import (
    bytes_to_write,
    check_space,
    checkpoints,
    move_into,
    remove,
    remove_oldest,
    remove_partial,
    whole_folder,
)


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
    (tmp_path / "thoughts.partial").mkdir()  # not a folder of ours
    remove_partial(tmp_path)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["checkpoint-1", "thoughts.partial"]


def test_a_checkpoint_whose_removal_is_interrupted_is_none_any_more(tmp_path, monkeypatch):
    written(tmp_path / "checkpoint-1", "old")

    def interrupted(path, **options):
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folders.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path / "checkpoint-1")
    assert checkpoints(tmp_path) == []
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [(None, None, [1, 2, 10]), (2, None, [2, 10]), (1, None, [10]), (1, 1, [1, 10]), (2, 10, [2, 10]), (1, 7, [10])],
)
def test_the_newest_and_the_best_checkpoint_are_kept(tmp_path, limit, best, left):
    for step in (1, 2, 10):
        written(tmp_path / f"checkpoint-{step}", "state")
    remove_oldest(tmp_path, limit, None if best is None else tmp_path / f"checkpoint-{best}")
    assert [step for step, _ in checkpoints(tmp_path)] == left


@pytest.mark.parametrize(
    ("num_saves", "limit", "num_existing", "expected"),
    [
        (6, None, 0, (6, 605)),  # all are kept
        (0, None, 0, (0, 5)),
        (6, 1, 0, (2, 200)),  # a new one and the one before; by the time of the result, one is gone
        (6, 1, 1, (1, 100)),  # resumed: one of the two is there already
        (6, 2, 5, (1, 100)),
        (1, 3, 0, (1, 105)),
    ],
)
def test_space_is_counted_for_what_is_on_the_disk_at_a_time(num_saves, limit, num_existing, expected):
    assert bytes_to_write(100, 5, num_saves=num_saves, limit=limit, num_existing=num_existing) == expected


def test_a_result_larger_than_a_checkpoint_counts_too():
    assert bytes_to_write(10, 50, num_saves=6, limit=1, num_existing=1) == (1, 50)


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
    moved = move_into(partial, tmp_path)
    assert (tmp_path / "model").read_text() == "new"
    assert (tmp_path / "other").read_text() == "stays"
    assert (tmp_path / "vision_tower").is_dir()
    assert not partial.exists()
    assert moved == ["model", "vision_tower"]


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000_000))
    check_space(tmp_path / "run", 2_900_000_000, "the result")
    with pytest.raises(InvalidRequest, match=r"the result take about 3\.1 GB, but only 3\.0 GB are free"):
        check_space(tmp_path / "run", 3_100_000_000, "the result")


def test_a_place_that_cannot_be_written_to_is_noticed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        check_space(tmp_path / "file" / "run", 1, "the result")
