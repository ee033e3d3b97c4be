"""What makes two runs different."""

from __future__ import annotations

import json

import pytest

from llava.train import train
from llava.train.checkpoints.identity import differences, run_identity, surroundings


@pytest.fixture
def identity(tmp_path, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "d.json").write_text("[]")

    def of(*flags: str):
        words = ["--model_name_or_path", "m", "--data_path", str(tmp_path / "d.json"), "--output_dir", "o", "--use_cpu"]
        return run_identity(*train.parse([*words, *flags]), 12)

    return of


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--per_device_train_batch_size", "2"], "a step had 8 samples"),
        (["--gradient_accumulation_steps", "4"], "now 32"),
        (["--learning_rate", "1e-3"], "learning_rate"),
        (["--lr_scheduler_type", "cosine"], "lr_scheduler_type was 'linear', now 'cosine'"),
        (["--warmup_ratio", "0.03"], "warmup_steps"),
        (["--num_train_epochs", "2"], "num_train_epochs was 3.0, now 2.0"),
        (["--max_steps", "7"], "max_steps"),
        (["--optim", "muon"], "muon"),
        (["--weight_decay", "0.1"], "weight_decay"),
        (["--max_grad_norm", "2"], "max_grad_norm"),
        (["--seed", "1"], "seed"),
        (["--group_by_length", "True"], "group_by_modality_length"),
        (["--train_sampling_strategy", "sequential"], "train_sampling_strategy"),
        (["--bf16", "True"], "bf16"),
        (["--version", "v1"], "version"),
        (["--tune_mm_mlp_adapter", "True"], "tune_mm_mlp_adapter"),
        (["--freeze_mm_mlp_adapter", "True"], "freeze_mm_mlp_adapter"),
        (["--mm_projector_lr", "1e-5"], "mm_projector_lr"),
        (["--model_max_length", "1024"], "model_max_length"),
        (["--image_aspect_ratio", "pad"], "image_aspect_ratio"),
        (["--pretrain_mm_mlp_adapter", "p.bin"], "pretrain_mm_mlp_adapter"),
    ],
)
def test_a_flag_that_changes_the_result_changes_the_run_and_is_named(identity, flags, named):
    found = differences(identity(), identity(*flags))
    assert len(found) == 1
    assert named in found[0]


@pytest.mark.parametrize(
    "flags",
    [
        ["--logging_steps", "1"],
        ["--save_steps", "7", "--save_total_limit", "1"],
        ["--report_to", "none"],
        ["--dataloader_num_workers", "2"],
        ["--image_folder", "elsewhere"],
        ["--gradient_checkpointing", "True"],
        ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4"],
    ],
)
def test_other_flags_do_not(identity, flags):
    assert differences(identity(), identity(*flags)) == []


def test_changed_data_are_noticed_by_content(identity, tmp_path):
    before = identity()
    (tmp_path / "d.json").write_text("[ ]")
    assert [text for text in differences(before, identity()) if "content" in text]


def test_inputs_are_compared_by_content_wherever_they_are(identity, tmp_path):
    base, projector = tmp_path / "base", tmp_path / "mm_projector.bin"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"0" * 5_000_000)
    projector.write_bytes(b"0")
    flags = ["--model_name_or_path", str(base), "--pretrain_mm_mlp_adapter", str(projector)]
    before = identity(*flags)
    (tmp_path / "moved.json").write_text("[]")
    assert differences(before, identity(*flags, "--model_name_or_path", f"{base}/")) == []
    assert differences(before, identity(*flags, "--data_path", str(tmp_path / "moved.json"))) == []
    weights = bytearray(b"0" * 5_000_000)
    weights[2_600_000] = 1
    (base / "model.safetensors").write_bytes(weights)
    assert differences(before, identity(*flags)) == [f"the content of {base} has changed"]
    projector.write_bytes(b"1")
    assert f"the content of {projector} has changed" in differences(before, identity(*flags))
    (tmp_path / "other.json").write_text("[ ]")
    named = differences(identity(), identity("--data_path", str(tmp_path / "other.json")))
    assert named == [f"data_path was '{tmp_path / 'd.json'}', now '{tmp_path / 'other.json'}'"]


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        (["--lr_scheduler_type", "constant", "--num_train_epochs", "1"], ["--num_train_epochs", "2"], True),
        (["--lr_scheduler_type", "constant", "--num_train_epochs", "2"], ["--num_train_epochs", "1"], False),
        (["--lr_scheduler_type", "constant", "--max_steps", "4"], ["--max_steps", "6"], True),
        (["--lr_scheduler_type", "constant", "--max_steps", "4"], ["--max_steps", "3"], False),
        (["--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "4"], ["--num_train_epochs", "5"], True),
        (["--lr_scheduler_type", "constant_with_warmup", "--warmup_ratio", "0.1"], ["--num_train_epochs", "5"], False),
        (["--lr_scheduler_type", "cosine"], ["--num_train_epochs", "5"], False),
    ],
)
def test_only_a_run_whose_learning_rate_does_not_depend_on_its_length_may_last_longer(
    identity, before, after, accepted
):
    assert (differences(identity(*before), identity(*before, *after)) == []) == accepted


def test_held_out_records_matter_if_they_choose_the_result(identity, tmp_path):
    (tmp_path / "e.json").write_text("[]")
    flags = ["--eval_data_path", str(tmp_path / "e.json"), "--save_strategy", "epoch"]
    best = [*flags, "--load_best_model_at_end", "True"]
    chosen, plain = identity(*best), identity(*flags)
    (tmp_path / "e.json").write_text("[ ]")
    assert differences(plain, identity(*flags)) == []
    assert differences(chosen, identity(*best)) == [f"the content of {tmp_path / 'e.json'} has changed"]


def test_what_may_change_while_a_run_lasts_is_said(identity):
    saved = identity() | {"num_processes": 2, "versions": {"torch": "2.0.0"}}
    assert differences(saved, identity()) == []
    processes, torch = surroundings(saved, identity())
    assert "the number of processes was 2, now 1" in processes
    assert torch.startswith("torch was 2.0.0, now 2.")
    assert surroundings(identity(), identity()) == []


def test_a_description_reads_back_as_it_was_written(identity):
    assert json.loads(json.dumps(identity())) == identity()


def test_settings_that_an_earlier_release_did_not_record_are_not_compared(identity):
    saved = {name: value for name, value in identity().items() if name != "weight_decay"}
    assert differences(saved, identity("--weight_decay", "0.1")) == []
