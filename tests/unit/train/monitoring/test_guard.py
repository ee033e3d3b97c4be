"""What stops a run, and what the message says."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from llava.errors import NotFiniteError
from llava.train.monitoring.guard import FILE, FiniteGuard

NAMES = [("/d/train.json: record 4 (id 'a')", "/d/train.json: record 9 (id 'b')"), ("/d/train.json: record 2",)]


@pytest.fixture
def args(tmp_path):
    return TrainingArguments(str(tmp_path), use_cpu=True)


def guard(*losses: float, norm: float | None = 1.0, gather=lambda found: found) -> FiniteGuard:
    made = FiniteGuard(gather)
    made.begin_step(NAMES)
    for loss in losses:
        made.watch_loss(torch.tensor(loss))
    made.watch_gradient(None if norm is None else torch.tensor(norm))
    return made


def check(made: FiniteGuard, args, step: int = 119) -> None:
    made.on_pre_optimizer_step(args, TrainerState(global_step=step), TrainerControl())


@pytest.mark.parametrize("norm", [0.0, 3.5, 1e30, None])
def test_finite_values_pass(args, norm):
    check(guard(2.0, 1e30, norm=norm), args)


@pytest.mark.parametrize(
    ("losses", "norm", "problem", "named"),
    [
        ((2.0, float("nan")), float("nan"), "the loss is nan", ["record 2"]),
        ((float("inf"), 1.0), 1.0, "the loss is inf", ["record 4 (id 'a')", "record 9 (id 'b')"]),
        ((1.0, 1.0), float("nan"), "the gradient norm is nan", ["record 2", "record 4", "record 9"]),
        ((1.0, 1.0), float("inf"), "the gradient norm is inf", ["record 2", "record 4", "record 9"]),
    ],
)
def test_the_message_says_what_is_not_finite_and_names_the_records_that_can_be_the_cause(
    args, losses, norm, problem, named
):
    with pytest.raises(NotFiniteError) as caught:
        check(guard(*losses, norm=norm), args)
    text = str(caught.value)
    assert text.startswith(f"step 120: {problem}, so the run was stopped before anything of this step was saved.")
    for number in ("record 2", "record 4", "record 9"):
        assert (number in text) == any(name.startswith(number) for name in named)
    assert text.count("/d/train.json") == 1
    assert "There is no checkpoint yet." in text
    assert "llava data check" in text


def test_records_of_another_process_are_named(args):
    def gather(found):
        return [*found, ("the loss is nan", ("/d/train.json: record 77",))]

    made = guard(1.0, norm=float("nan"), gather=gather)
    with pytest.raises(NotFiniteError, match=r"the loss is nan.*holds /d/train\.json: record 77\."):
        check(made, args)


def test_many_records_are_listed_in_a_file_which_the_next_attempt_removes(args, tmp_path):
    made = guard()
    made.begin_step([tuple(f"t.json: record {number}" for number in range(40))])
    made.watch_loss(torch.tensor(float("nan")))
    with pytest.raises(NotFiniteError, match=r"and 24 more, all listed in .*not_finite\.json"):
        check(made, args)
    listed = json.loads((tmp_path / FILE).read_text())
    assert listed["step"] == 120
    assert len(listed["records"]) == 40
    made.on_train_begin(args, TrainerState(), TrainerControl())
    assert not (tmp_path / FILE).exists()


def test_a_new_step_forgets_the_last_one(args):
    made = guard(float("nan"), norm=float("nan"))
    made.begin_step(NAMES)
    made.watch_loss(torch.tensor(1.0))
    made.watch_gradient(1.0)
    check(made, args)


@pytest.mark.parametrize(
    ("saved", "said"),
    [((100,), "is {}/checkpoint-100."), ((118, 119), "-119, saved right before this step; the one before it is {}/")],
)
def test_the_last_good_checkpoint_is_named(args, tmp_path, saved, said):
    for step in saved:
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(NotFiniteError) as caught:
        check(guard(float("nan")), args)
    assert said.format(tmp_path) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_not_saved(args, value):
    model = nn.Linear(3, 2)
    made = guard(1.0)
    with torch.no_grad():
        model.weight[1, 1] = 1e38  # finite, though its square is not
    made.check_weights(model, args, TrainerState(global_step=7))
    with torch.no_grad():
        model.weight[1, 1] = value
    with pytest.raises(NotFiniteError, match=r"^step 7: the weights are not finite.*record 4 .*record 9"):
        made.check_weights(model, args, TrainerState(global_step=7))
