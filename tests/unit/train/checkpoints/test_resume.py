"""Where a run starts: anew, from which checkpoint, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.errors import CheckpointError, InvalidRequest
from llava.train.checkpoints.folders import list_files
from llava.train.checkpoints.identity import SAMPLES_PER_STEP, write_identity
from llava.train.checkpoints.resume import Start, find_start, named_checkpoint, unmark_finished

RUN = {
    "model_name_or_path": "llama",
    "data_path": "a.json",
    "seed": 42,
    SAMPLES_PER_STEP: 128,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 1.0,
}


def checkpoint(folder: Path, step: int, identity: dict | None = RUN, *, state: str | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)
    (path / "scheduler.pt").write_text("")
    if identity is not None:
        write_identity(path, identity)
    return path


def start(folder: Path, identity: dict = RUN, wanted: str | None = None, **more) -> Start:
    return find_start(folder, identity, wanted=wanted, **more)


def test_a_folder_without_checkpoints_starts_anew(tmp_path):
    (tmp_path / "llava-13b-pretrain").mkdir()
    checkpoint(tmp_path, 7).rename(tmp_path / "checkpoint-7.partial")
    checkpoint(tmp_path / "other-run", 5)
    assert start(tmp_path) == Start()
    assert start(tmp_path / "not-there") == Start()


def test_the_newest_checkpoint_is_chosen_by_step_not_by_name(tmp_path):
    checkpoint(tmp_path, 900)
    newest = checkpoint(tmp_path, 1000)
    assert start(tmp_path) == Start(checkpoint=newest)


@pytest.mark.parametrize("state", ["", '{"global_step": 2'])
def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path, state):
    whole = checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, state=state)
    found = start(tmp_path)
    assert found.checkpoint == whole
    assert "checkpoint-2 is incomplete and is passed over: trainer_state.json is missing or cut off" in found.notes[0]


def test_a_checkpoint_that_has_lost_a_file_is_passed_over_and_named(tmp_path):
    whole, damaged = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    (damaged / "optimizer.pt").write_text("state")
    list_files(damaged)
    assert start(tmp_path).checkpoint == damaged
    for damage in (lambda file: file.write_text("stat"), Path.unlink):
        damage(damaged / "optimizer.pt")
        found = start(tmp_path)
        assert found.checkpoint == whole
        assert "checkpoint-2 is incomplete and is passed over: optimizer.pt is missing or cut off" in found.notes[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data_path": "b.json"}, r"data_path was 'b\.json', now 'a\.json'"),
        ({SAMPLES_PER_STEP: 16}, r"a step had 16 samples \(batch size x accumulation x processes\), now 128"),
        ({"num_train_epochs": 3.0}, r"num_train_epochs was 3\.0, now 1\.0"),
    ],
)
def test_checkpoints_and_results_of_another_run_are_refused_with_the_difference(tmp_path, changed, said):
    checkpoint(tmp_path / "checkpoints", 1, {**RUN, **changed})
    write_identity(tmp_path / "result", {**RUN, **changed}, finished_at_step=2)
    for folder in ("checkpoints", "result"):
        with pytest.raises(InvalidRequest, match=said):
            start(tmp_path / folder)
        assert start(tmp_path / folder, wanted="False").checkpoint is None
        assert start(tmp_path / folder, start_over=True).checkpoint is None


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    checkpoint(tmp_path, 1, identity=None)
    with pytest.raises(InvalidRequest, match=r"llava_run\.json is missing"):
        start(tmp_path)


def test_a_named_checkpoint_must_be_complete_and_of_this_run(tmp_path):
    assert named_checkpoint(str(checkpoint(tmp_path, 1)), RUN) == tmp_path / "checkpoint-1"
    with pytest.raises(InvalidRequest, match=r"checkpoint-1: is of another run \(seed was 42, now 1\)"):
        named_checkpoint(str(tmp_path / "checkpoint-1"), {**RUN, "seed": 1})
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        named_checkpoint(str(checkpoint(tmp_path, 2, state="")), RUN)
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        named_checkpoint(str(tmp_path / "none"), RUN)
    with pytest.raises(InvalidRequest, match="a step had 128 samples"):
        named_checkpoint(str(tmp_path / "checkpoint-1"), {**RUN, SAMPLES_PER_STEP: 64})


def test_an_output_folder_that_is_named_as_a_checkpoint_is_refused_with_the_names_inside(tmp_path):
    checkpoint(tmp_path, 1)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    with pytest.raises(CheckpointError, match=r"scheduler\.pt is missing\. Name .*checkpoint-1\."):
        named_checkpoint(str(tmp_path), RUN)


def test_a_named_checkpoint_does_not_lead_into_the_folder_of_another_run(tmp_path):
    named = checkpoint(tmp_path / "first", 1)
    checkpoint(tmp_path / "second", 3, {**RUN, "seed": 7})
    with pytest.raises(InvalidRequest, match="seed was 7, now 42"):
        start(tmp_path / "second", wanted=str(named))


def test_checkpoints_that_a_start_leaves_behind_are_named(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    again, back = start(tmp_path, wanted="False"), start(tmp_path, wanted=str(tmp_path / "checkpoint-2"))
    paths = [str(tmp_path / f"checkpoint-{step}") for step in (1, 2, 3)]
    assert again.notes == (f"the first checkpoint that is saved will replace {', '.join(paths)}",)
    assert back.notes == (f"the first checkpoint that is saved will replace {paths[2]}",)


def test_a_finished_run_whose_result_has_lost_a_file_writes_it_again(tmp_path):
    last = checkpoint(tmp_path, 2)
    write_identity(tmp_path, RUN, finished_at_step=2, result_files=["mm_projector.bin"])
    found = start(tmp_path)
    assert found.checkpoint == last
    assert "lacks" in found.notes[0]
    assert "mm_projector.bin" in found.notes[0]


def test_a_result_of_another_run_is_refused_though_its_end_was_not_marked(tmp_path):
    write_identity(tmp_path, {**RUN, "seed": 7})
    with pytest.raises(InvalidRequest, match="seed was 7, now 42"):
        start(tmp_path)


def test_a_finished_run_is_not_repeated_until_it_is_started_over(tmp_path):
    checkpoint(tmp_path, 2)
    write_identity(tmp_path, RUN, finished_at_step=2)
    assert start(tmp_path) == Start(finished_at_step=2)
    unmark_finished(tmp_path)
    assert start(tmp_path) == Start(checkpoint=tmp_path / "checkpoint-2")


def test_a_run_with_a_constant_learning_rate_may_be_prolonged(tmp_path):
    constant = {**RUN, "lr_scheduler_type": "constant"}
    last = checkpoint(tmp_path, 2, constant)
    write_identity(tmp_path, constant, finished_at_step=2)
    assert start(tmp_path, {**constant, "num_train_epochs": 2.0}).checkpoint == last


def test_a_checkpoint_that_is_asked_for_must_exist(tmp_path):
    with pytest.raises(InvalidRequest, match="has no checkpoint of this run"):
        start(tmp_path, wanted="True")
