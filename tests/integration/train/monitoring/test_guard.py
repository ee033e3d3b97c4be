"""A loss or gradient that is not finite stops the run before the weights are touched."""

from __future__ import annotations

import pytest
import torch

from llava.errors import NotFiniteError
from llava.train import train
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
