"""The number formats of a run's weights, and what the processes that receive them hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava.model.builder import load_pretrained_model
from llava.model.loading.plan import make_plan
from llava.model.loading.tokenizer import load_tokenizer
from llava.train.parallel.loading import load_for_training
from llava.train.setup.trainable import Stage, select_trainable

DATA = Path(__file__).resolve().parents[3] / "data"


def loaded(checkpoint: str, stage: Stage, frozen: torch.dtype, *, empty: bool = False):
    folder = DATA / checkpoint
    plan = make_plan(folder, device="cpu", device_map=None, dtype=frozen, vision_tower=DATA / "clip-tiny")
    model = load_for_training(
        plan,
        load_tokenizer(folder),
        lambda name: torch.float32 if stage.trains(name) else frozen,
        empty=empty,
    )
    select_trainable(model, stage, frozen_dtype=frozen)
    return model


@pytest.mark.parametrize("checkpoint", ["llava-v0-tiny", "llava-v1.5-tiny"])
def test_the_weights_are_those_that_every_other_command_loads(checkpoint):
    """Oracle: the loader of all other commands."""
    _, expected, _, _ = load_pretrained_model(
        DATA / checkpoint, device="cpu", dtype=torch.float32, vision_tower=DATA / "clip-tiny"
    )
    model = loaded(checkpoint, Stage(adapter_only=False), torch.float32)
    theirs = expected.state_dict()
    assert model.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    buffers = dict(expected.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        (Stage(adapter_only=True), ("model.mm_projector.",)),
        (Stage(adapter_only=False, freeze_backbone=True), ("model.mm_projector.", "lm_head.")),
        (Stage(adapter_only=False, freeze_projector=True), ("model.layers.", "model.embed", "model.norm", "lm_head.")),
    ],
)
def test_what_trains_is_float32_and_what_is_frozen_has_16_bits(stage, trained):
    model = loaded("llava-v1.5-tiny", stage, torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith(trained)
        assert parameter.dtype == (torch.float32 if name.startswith(trained) else torch.bfloat16), name


def test_a_receiving_process_has_the_same_parameters_as_the_one_that_reads():
    stage = Stage(adapter_only=True)
    first = loaded("llava-v0-tiny", stage, torch.bfloat16)
    other = loaded("llava-v0-tiny", stage, torch.bfloat16, empty=True)
    described = [
        [(name, value.shape, value.dtype, value.requires_grad) for name, value in model.named_parameters()]
        for model in (first, other)
    ]
    assert described[0] == described[1]
    buffers = dict(first.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in other.named_buffers())
