"""The flags of a training command: those of every release are accepted, translated or refused, never ignored unsaid."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llava.errors import InvalidRequest
from llava.train import train
from llava.train.setup.flag_check import check_flags
from llava.train.setup.lora import LoraSettings

BASE = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o"]

on_cpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="says what a machine without accelerator does")


def parse(*flags: str):
    return train.parse([*BASE, *flags])


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "WANDB_MODE", "WANDB_API_KEY", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--evaluation_strategy", "no"], "eval_strategy", "no"),
        (["--warmup_ratio", "0.03"], "warmup_steps", 0.03),
        (["--gradient_checkpointing", "True"], "gradient_checkpointing_kwargs", {"use_reentrant": False}),
        (["--no_cuda"], "use_cpu", True),
        (["--group_by_length", "True"], "group_by_modality_length", True),
        (["--group_by_modality_length", "True"], "group_by_modality_length", True),
        (["--mm_projector_lr", "2e-5"], "mm_projector_lr", 2e-5),
        (["--freeze_mm_mlp_adapter", "True"], "freeze_mm_mlp_adapter", True),
        (["--bits", "16"], "fp16", False),
        (["--lora_enable", "False"], "lora", None),
        (["--lora_enable", "True", "--lora_r=128"], "lora", LoraSettings(rank=128)),
    ],
)
def test_flags_of_older_releases_mean_what_they_meant(flags, name, value):
    _, _, training = parse(*flags)
    assert getattr(training, name) == value


def test_one_process_trains_without_the_sharding_it_was_asked_for():
    _, _, training = parse(
        "--fsdp", "full_shard auto_wrap", "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer"
    )
    assert not training.fsdp
    assert any("there is a single process" in note for note in training.notes)


@on_cpu
@pytest.mark.parametrize(
    ("flags", "name", "said"),
    [
        (["--bf16", "True"], "bf16", "--bf16: ignored"),
        (["--fp16", "True"], "fp16", "--fp16: ignored"),
        (["--tf32", "True"], "tf32", "--tf32: ignored"),
    ],
)
def test_arithmetic_that_this_machine_lacks_is_left_out_and_said(flags, name, said):
    _, _, training = parse(*flags)
    assert not getattr(training, name)
    assert any(note.startswith(said) for note in training.notes)


@pytest.mark.parametrize(
    "flags",
    [
        ["--evaluation_strategy", "no"],
        ["--warmup_ratio", "0.03"],
        ["--fsdp", "full_shard auto_wrap"],
        ["--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer"],
        ["--cache_dir", "/tmp/x"],
        ["--save_safetensors", "False"],
    ],
)
def test_every_translation_is_said_in_one_line_that_names_the_flag(flags):
    _, _, training = parse(*flags)
    notes = [note for note in training.notes if note.startswith(flags[0])]
    assert len(notes) == 1
    assert "\n" not in notes[0]


def test_a_report_that_is_not_installed_is_left_out_and_said():
    _, _, training = parse("--report_to", "comet_ml")
    assert training.report_to == []
    assert any("comet_ml" in note for note in training.notes)


@pytest.mark.parametrize("value", [[], ["True"]])
def test_switches_take_a_value_or_stand_alone(value):
    model, _, _ = parse("--mm_use_im_start_end", *value)
    assert model.mm_use_im_start_end is True


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bits", "4"], "quantised weights cannot be trained"),
        (["--packing"], "packing"),
        (["--ignore_data_skip", "True"], "train on some samples twice"),
        (["--auto_find_batch_size", "True"], "another batch size would make another run"),
        (["--save_only_model"], "could not be resumed"),
        (["--enable_jit_checkpoint=True"], "lower --save_steps"),
        (["--push_to_hub", "True"], "nothing is uploaded"),
        (["--dataloader_in_order", "False"], "the order of the samples would depend on chance"),
    ],
)
def test_what_is_not_supported_is_refused_not_ignored(flags, said):
    with pytest.raises(InvalidRequest, match=said):
        parse(*flags)


@pytest.mark.parametrize(
    "flags", [["--save_only_model", "False"], ["--push_to_hub=no"], ["--dataloader_in_order", "True"]]
)
def test_a_refused_flag_may_ask_for_nothing(flags):
    parse(*flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train_sampling_strategy", "group_by_length"], "Use random or sequential, or --group_by_modality_length"),
        (["--output_dir", "{base}/"], "is the folder of the model"),
    ],
)
def test_flags_that_could_not_work_are_refused_before_anything_is_loaded(tmp_path, flags, said):
    words = [word.format(base=tmp_path) for word in ("--model_name_or_path", "{base}", *flags)]
    model, _, training = parse(*words)
    with pytest.raises(InvalidRequest, match=said):
        check_flags(model, training)


@on_cpu
def test_sharding_flags_of_a_launched_process_are_those_of_fsdp2(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(
        "transformers.TrainingArguments.device", torch.device("cpu")
    )  # it would open a group of processes
    _, _, training = parse("--fsdp", "shard_grad_op auto_wrap offload", "--gradient_checkpointing", "True")
    assert training.fsdp_plugin_args["fsdp_version"] == 2
    assert training.fsdp_plugin_args["reshard_after_forward"] is False
    training.shard_layers_of(SimpleNamespace(_no_split_modules={"Qwen3DecoderLayer"}))
    assert training.fsdp_plugin_args["transformer_cls_names_to_wrap"] == "Qwen3DecoderLayer"
    assert any(note.startswith("--fsdp offload: ignored") for note in training.notes)


@on_cpu
def test_sharding_by_layers_of_another_decoder_names_those_of_this_one(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("transformers.TrainingArguments.device", torch.device("cpu"))
    _, _, training = parse("--fsdp", "full_shard", "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer")
    with pytest.raises(InvalidRequest, match=r"LlamaDecoderLayer: .* no such layers\. Use Qwen3DecoderLayer"):
        training.shard_layers_of(SimpleNamespace(_no_split_modules={"Qwen3DecoderLayer"}))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--vison_tower", "x"], "--vision_tower"),
        (["--tune_mm_mlp_adaptor"], "--tune_mm_mlp_adapter"),
        (["--per_device_batch_size", "4"], "--per_device_train_batch_size"),
    ],
)
def test_an_unknown_flag_exits_with_2_and_names_the_nearest(flags, said, capsys):
    assert train.main([*BASE, *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_flag_exits_with_2_and_names_it(capsys):
    assert train.main(["--data_path", "d.json"]) == 2
    error = capsys.readouterr().err
    assert "--model_name_or_path" in error
    assert "--output_dir" in error


def test_a_value_of_the_wrong_type_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--model_max_length", "long")
    assert caught.value.code == 2
    assert "model_max_length" in capsys.readouterr().err


def test_help_tells_every_flag_of_ours(capsys):
    from dataclasses import fields

    from llava.train.setup.arguments import DataArguments, ModelArguments, TrainingOptions

    assert train.main(["--help"]) == 0
    text = capsys.readouterr().out
    for group in (ModelArguments, DataArguments, TrainingOptions):
        for option in fields(group):
            assert f"--{option.name}" in text


def test_help_names_only_flags_that_parse():
    from llava.train.setup.arguments import COMMON_TRAINER_FLAGS
    from llava.train.setup.training_arguments import TrainingArguments

    assert set(COMMON_TRAINER_FLAGS) <= set(TrainingArguments.__dataclass_fields__)
