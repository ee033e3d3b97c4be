"""The settings of DeepSpeed: what is read, what is filled in, and what is refused by name before anything is loaded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from llava.errors import InvalidRequest
from llava.train.parallel import deepspeed_settings
from llava.train.parallel.deepspeed_settings import deepspeed_of_words, read_deepspeed

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts"
STAGE_2 = {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("file", "stage", "offloads"), [("zero2", 2, False), ("zero3", 3, False), ("zero3_offload", 3, True)]
)
def test_the_files_in_scripts_can_be_used_with_all_flags(file, stage, offloads):
    chosen = read_deepspeed(str(SCRIPTS / f"{file}.json"))
    assert chosen is not None
    assert chosen.stage == stage
    assert ("offload_param" in chosen.settings["zero_optimization"]) == offloads
    assert (chosen.own_optimizer, chosen.own_schedule) == (None, None)
    given = json.loads((SCRIPTS / f"{file}.json").read_text())
    assert {"bf16", "gradient_clipping", "train_batch_size"} <= given.keys()


def test_what_a_file_leaves_out_is_taken_from_the_flags_not_from_deepspeeds_defaults():
    """DeepSpeed would clip no gradients, and compute in float32 under --bf16."""
    chosen = read_deepspeed(STAGE_2)
    assert chosen is not None
    assert chosen.settings["gradient_clipping"] == "auto"
    assert chosen.settings["bf16"] == {"enabled": "auto"}


@pytest.mark.parametrize("source", [None, ""])
def test_without_settings_there_is_no_deepspeed(source):
    assert read_deepspeed(source) is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.json", r"--deepspeed nowhere.json: cannot be read \(No such file"),
        ("{", "not valid JSON"),
        ("[]", "cannot be read"),
        ({}, '"zero_optimization" is missing'),
        ({"zero_optimization": {}}, "stage is None. Use 1"),
        ({"zero_optimization": {"stage": 0}}, "stage is 0. Use 1"),
        ({"zero_optimization": {"stage": "3"}}, "stage is '3'. Use 1"),
        ({"zero_optimization": {"stage": True}}, "stage is True. Use 1"),
        ({**STAGE_2, "gradient_cliping": 1.0}, "no setting 'gradient_cliping'; did you mean 'gradient_clipping'"),
        ({**STAGE_2, "zero_optimisation": {}}, "did you mean 'zero_optimization'"),
        ({**STAGE_2, "amp": {"enabled": True}}, "amp is not supported. Use --bf16 True"),
        ({**STAGE_2, "tensor_parallel": {"autotp_size": 2}}, "tensor_parallel is not supported"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(source, message):
    with pytest.raises(InvalidRequest, match=message):
        read_deepspeed(json.dumps(source) if isinstance(source, dict) else source)


@pytest.fixture
def launched(monkeypatch):
    """A process of a launcher, on a machine with DeepSpeed."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(deepspeed_settings, "find_spec", lambda name: importlib.util.find_spec("json"))


def words(tmp_path: Path, *more: str, **settings: object) -> list[str]:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({**STAGE_2, **settings}))
    return ["--output_dir", "out", "--deepspeed", str(file), *more]


def test_a_command_line_names_a_file(launched, tmp_path):
    chosen = deepspeed_of_words(words(tmp_path))
    assert chosen is not None
    assert chosen.stage == 2
    assert deepspeed_of_words(["--output_dir", "out"]) is None


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        (("--fsdp", "full_shard auto_wrap"), {}, "--deepspeed and --fsdp both shard the model"),
        (("--optim", "muon"), {}, "--optim muon needs whole matrices"),
        (
            ("--mm_projector_lr", "2e-5"),
            {"optimizer": {"type": "AdamW"}},
            r"--mm_projector_lr: the optimizer of .*zero.json \(AdamW\) has one learning rate",
        ),
    ],
)
def test_flags_that_contradict_it_are_refused_by_name(launched, tmp_path, more, settings, message):
    with pytest.raises(InvalidRequest, match=message):
        deepspeed_of_words(words(tmp_path, *more, **settings))


def test_a_missing_package_is_named_with_two_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(deepspeed_settings, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match=r"pip install -e '\.\[deepspeed\]'`, or use --fsdp"):
        deepspeed_of_words(words(tmp_path))


def test_without_a_launcher_the_run_is_refused(launched, monkeypatch, tmp_path):
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InvalidRequest, match="needs a launcher, also for one GPU"):
        deepspeed_of_words(words(tmp_path))
