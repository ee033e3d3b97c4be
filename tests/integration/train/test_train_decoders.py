"""Both stages train a LLaVA on any decoder, and their results load."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from llava.model.builder import load_pretrained_model
from llava.model.language_model.decoders import TESTED
from llava.train import train
from tests.support.checkpoints import copy_tokenizer, randomise
from tests.support.decoders import tiny_decoder
from tests.support.training import flags, history, result, write_records

LATER = ("--version", "v1", "--mm_use_im_patch_token", "False", "--mm_projector_type", "mlp2x_gelu")


@pytest.mark.parametrize("kind", sorted(TESTED))
def test_both_stages_train_what_they_should_and_their_results_load(kind, tmp_path):
    base = AutoModelForCausalLM.from_config(tiny_decoder(kind))
    randomise(base)
    base.save_pretrained(tmp_path / "base")
    copy_tokenizer(tmp_path / "base")
    records = write_records(tmp_path / "train.json", 4)
    one, two = tmp_path / "one", tmp_path / "two"
    stage_1 = flags(records, one, *LATER, "--tune_mm_mlp_adapter", "True", model=tmp_path / "base")
    train.train(*train.parse(stage_1))
    assert set(result(one)) == {f"model.mm_projector.{n}.{part}" for n in (0, 2) for part in ("weight", "bias")}
    projector = ("--pretrain_mm_mlp_adapter", str(one / "mm_projector.bin"))
    train.train(*train.parse(flags(records, two, *LATER, *projector, model=tmp_path / "base")))
    for output in (one, two):
        (loss,), (norm,) = history(output, "loss"), history(output, "grad_norm")
        assert 0 < loss < 20
        assert norm > 0
    _, trained, _, _ = load_pretrained_model(two, device="cpu", dtype="float32")
    _, aligned, _, _ = load_pretrained_model(one, tmp_path / "base", device="cpu", dtype="float32")
    before, after = base.state_dict(), trained.state_dict()
    unchanged = {name for name, value in before.items() if torch.equal(after[name], value)}
    assert all("norm" in name for name in unchanged), "stage 2 trains the whole language model"
    kept = aligned.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in before.items()), "stage 1 trains the projector alone"
