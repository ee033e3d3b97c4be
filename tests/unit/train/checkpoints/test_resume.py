"""Which checkpoint a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.errors import CheckpointError, InvalidRequest
from llava.train.checkpoints.resume import find_checkpoint, named_checkpoint, write_identity

RUN = {"model_name_or_path": "llama", "data_path": "a.json", "seed": 42}


def checkpoint(folder: Path, step: int, identity: dict | None = RUN, *, state: str | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)
    if identity is not None:
        write_identity(path, identity)
    return path


def test_a_folder_without_checkpoints_starts_anew(tmp_path):
    (tmp_path / "llava-13b-pretrain").mkdir()
    checkpoint(tmp_path / "other-run", 5)
    assert find_checkpoint(tmp_path, RUN) is None
    assert find_checkpoint(tmp_path / "not-there", RUN) is None


def test_the_newest_checkpoint_is_chosen_by_step_not_by_name(tmp_path):
    checkpoint(tmp_path, 900)
    newest = checkpoint(tmp_path, 1000)
    assert find_checkpoint(tmp_path, RUN) == newest


@pytest.mark.parametrize("state", ["", '{"global_step": 2'])
def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path, state):
    whole = checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, state=state)
    assert find_checkpoint(tmp_path, RUN) == whole


def test_a_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path):
    checkpoint(tmp_path, 1, {**RUN, "data_path": "b.json"})
    with pytest.raises(InvalidRequest, match=r"data_path was 'b\.json', now 'a\.json'"):
        find_checkpoint(tmp_path, RUN)


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    checkpoint(tmp_path, 1, identity=None)
    with pytest.raises(InvalidRequest, match=r"llava_run\.json is missing"):
        find_checkpoint(tmp_path, RUN)


def test_a_named_checkpoint_must_be_complete(tmp_path):
    assert named_checkpoint(str(checkpoint(tmp_path, 1))) == tmp_path / "checkpoint-1"
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        named_checkpoint(str(checkpoint(tmp_path, 2, state="")))
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        named_checkpoint(str(tmp_path / "none"))
