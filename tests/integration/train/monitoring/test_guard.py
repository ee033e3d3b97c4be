"""A loss, a gradient or weights that are not finite stop the run before anything of it is saved."""

from __future__ import annotations

import json

import pytest
import torch

from llava.errors import NotFiniteError
from llava.train import train
from llava.train.monitoring.guard import FILE
from tests.support.training import STAGE_1, flags, write_records


@pytest.fixture
def trainer(tmp_path):
    records = write_records(tmp_path / "train.json")
    order = ("--train_sampling_strategy", "sequential", "--save_strategy", "steps", "--save_steps", "1")
    return train.make_trainer(*train.parse(flags(records, tmp_path / "out", *STAGE_1, *order, batch=3)))


@pytest.mark.parametrize(("poison", "named"), [("loss", "the loss is nan"), ("gradient", "the gradient norm is inf")])
def test_the_run_stops_names_the_records_and_keeps_the_last_checkpoint(trainer, tmp_path, poison, named):
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    weight = trainer.model.model.mm_projector.weight
    steps = []

    def spoil(*_):
        steps.append(trainer.state.global_step)
        if trainer.state.global_step == 2:
            weights.update({name: value.clone() for name, value in trainer.model.state_dict().items()})
            if poison == "gradient":
                weight.register_hook(lambda gradient: gradient * float("inf"))
            else:
                return (None, {"labels": None})
        return None

    if poison == "gradient":
        trainer.model.register_forward_pre_hook(spoil)
    else:
        original = trainer.model.forward

        def forward(**batch):
            output = original(**batch)
            if trainer.state.global_step == 2:
                weights.update({name: value.clone() for name, value in trainer.model.state_dict().items()})
                output.loss = output.loss * float("nan")
            return output

        trainer.model.forward = forward
    with pytest.raises(NotFiniteError, match=rf"^step 3: {named}") as caught:
        trainer.train()
    for identity in ("p6", "p7", "p8"):
        assert f"(id '{identity}')" in str(caught.value)
    assert "p5" not in str(caught.value)
    assert f"The last good checkpoint is {tmp_path / 'out' / 'checkpoint-2'}" in str(caught.value)
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())


def test_the_command_ends_with_one_line_and_no_result(tmp_path, capsys):
    records = write_records(tmp_path / "train.json")
    arguments = flags(
        records, tmp_path / "out", *STAGE_1, "--learning_rate", "1e38", "--optim", "sgd", "--max_grad_norm", "0"
    )
    assert train.main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: step ")
    assert "the loss is nan" in error
    assert not (tmp_path / "out" / "mm_projector.bin").exists()


def test_weights_that_became_infinite_are_not_saved(tmp_path, capsys):
    records = write_records(tmp_path / "train.json")
    spoiled = ("--learning_rate", "inf", "--optim", "sgd", "--max_steps", "1", "--lr_scheduler_type", "constant")
    assert train.main(flags(records, tmp_path / "out", *STAGE_1, *spoiled)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: step 1: the weights are not finite after this step, so they were not saved")
    assert not (tmp_path / "out" / "mm_projector.bin").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poisoned parallel", "poisoned sharded"])
def test_every_process_stops_and_the_record_of_the_one_that_failed_is_named(two_processes, name):
    """The loss of record 3 is not a number; it is the second process's record of the second step."""
    work, outcomes = two_processes
    printed = outcomes[name].printed
    assert 0 not in outcomes[name].codes
    (error,) = {line for line in printed.splitlines() if line.startswith("error: ")}
    file, kept = work / "train.json", work / name / "checkpoint-1"
    assert error.startswith("error: step 2: the loss is nan, so the run was stopped")
    assert f"The batch holds {file}: record 3 (id 'p3'). The last good checkpoint is {kept}," in error
    assert {path.name for path in (work / name).iterdir() if path.is_dir()} == {"checkpoint-1"}
    assert not (work / name / "mm_projector.bin").exists()
    listed = json.loads((work / name / FILE).read_text())
    assert listed["records"] == [f"{file}: record 3 (id 'p3')"]
