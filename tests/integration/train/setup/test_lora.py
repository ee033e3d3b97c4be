"""LoRA runs on small real models: what they train, what they save, and who reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.errors import CheckpointError, InvalidRequest, ShapeMismatch
from llava.model.builder import load_pretrained_model
from llava.model.merge_lora import merge
from llava.model.weights.folder import WriteSettings
from llava.train import train
from tests.support.checkpoints import DATA, small_tower

BASE, V15 = DATA / "llama-vicuna-tiny", DATA / "llava-v1.5-tiny"
IMAGES = ("land.png", "square.png", "port.png")
PIXELS = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
KINDS = {"plain": (), "rank-stabilised": ("--use_rslora",), "DoRA": ("--use_dora", "True")}


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    return small_tower(tmp_path_factory.mktemp("tower") / "clip")


@pytest.fixture(scope="module")
def training_file(tmp_path_factory) -> Path:
    """Eight records, two of them without an image."""
    records = []
    for number in range(8):
        question, record = "What is this?\n<image>", {"id": str(number), "image": IMAGES[number % 3]}
        if number % 4 == 3:
            question = "Give a tip."
            del record["image"]
        answer = "A thing. " * (1 + number % 3) + f"Number {number}."
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        records.append({**record, "conversations": turns})
    path = tmp_path_factory.mktemp("records") / "train.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def command(training_file, tower):
    """Returns the flags of a LoRA run on a plain language model, with start and end tokens (v0)."""

    def flags(output: Path, *more: str, model: Path | str = BASE, batch: int = 2) -> list[str]:
        named = {
            "model_name_or_path": model,
            "data_path": training_file,
            "image_folder": DATA / "images",
            "vision_tower": tower,
            "mm_vision_select_layer": -2,
            "lora_enable": True,
            "lora_r": 4,
            "lora_alpha": 8,
            "output_dir": output,
            "per_device_train_batch_size": batch,
            "num_train_epochs": 1,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "model_max_length": 512,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        given = {word for word in more if word.startswith("--")}
        words = [(f"--{name}", str(value)) for name, value in named.items() if f"--{name}" not in given]
        return [word for pair in words for word in pair] + list(more)

    return flags


START_END = ("--mm_use_im_start_end", "True")


def trainer_of(words: list[str]):
    return train.make_trainer(*train.parse(words))


def run(words: list[str]) -> None:
    train.train(*train.parse(words))


def losses(output: Path) -> list[float]:
    state = json.loads((output / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def whole(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "non_lora_trainables.bin", weights_only=True)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "adapter_model.safetensors"), **whole(folder)}


def load(folder: Path, base: Path | str | None = None, **options):
    return load_pretrained_model(folder, base, device="cpu", dtype="float32", **options)[1]


def logits(model) -> torch.Tensor:
    patch = model.config.im_patch_token if model.config.uses_patch_runs else None
    image = [-200] if patch is None else [patch] * 16
    if model.config.mm_use_im_start_end:
        image = [patch + 1, *image, patch + 2]
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[1, 20, *image, 30]]), images=PIXELS).logits


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)  # sums in another order


# ---- trained, saved, loaded, merged ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("more", "model"),
    [
        (START_END, BASE),
        (("--version", "v1", "--mm_projector_type", "mlp2x_gelu", "--mm_use_im_patch_token", "False"), BASE),
        (("--version", "v1"), V15),
    ],
    ids=["v0 on a language model", "v1 on a language model", "v1 on a LLaVA"],
)
def test_a_run_loads_and_merges_to_the_model_that_was_trained(command, tmp_path, kind, more, model):
    if model == V15:
        model = tmp_path / "base"
        shutil.copytree(V15, model)
        config = json.loads((model / "config.json").read_text()) | {"mm_hidden_size": 32}
        (model / "config.json").write_text(json.dumps(config))
        weights = torch.load(model / "pytorch_model.bin", weights_only=True)
        weights["model.mm_projector.0.weight"] = torch.randn(64, 32) * 0.1
        torch.save(weights, model / "pytorch_model.bin")
    trainer = trainer_of(command(tmp_path / "lora", *more, *KINDS[kind], model=model))
    before = logits(trainer.model)
    trainer.train()
    trainer.save_model()
    expected = logits(trainer.model)
    assert (expected - before).abs().max() > 0.05
    close(logits(load(tmp_path / "lora", model)), expected)
    merge(tmp_path / "lora", model, tmp_path / "merged", WriteSettings(torch.float32))
    close(logits(load(tmp_path / "merged")), expected)


def test_a_run_changes_the_matrices_the_projector_and_two_rows_and_nothing_else(command, tmp_path, capsys):
    trainer = trainer_of(command(tmp_path, *START_END, "--weight_decay", "0.1"))
    said = capsys.readouterr().out
    assert "LoRA of model.layers (" in said
    assert "rows <im_start>, <im_end> of model.embed_tokens (128)" in said
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    matrices = {name for name in before if ".lora_" in name}
    assert len(matrices) == 2 * 7 * 2  # two layers of seven matrices, each with A and B
    assert changed == matrices | {
        "model.mm_projector.weight",
        "model.mm_projector.bias",
        "model.embed_tokens.trained_rows.rows",
    }


def test_the_files_are_the_original_s(command, tmp_path):
    run(command(tmp_path, *START_END))
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.rpartition(".q_proj")[2] for name in adapter if "q_proj" in name} == {
        ".lora_A.weight",
        ".lora_B.weight",
    }
    assert adapter[f"{LAYER}.lora_A.weight"].shape == (4, 64)
    assert adapter[f"{LAYER}.lora_A.weight"].dtype == torch.float32
    assert set(whole(tmp_path)) == {
        "base_model.model.model.mm_projector.weight",
        "base_model.model.model.mm_projector.bias",
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.lm_head.weight",  # has rows that the base does not have
    }
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (4, 8, 0.05)
    assert settings["base_model_name_or_path"] == str(BASE)
    assert settings["target_modules"] == sorted(settings["target_modules"]) or len(settings["target_modules"]) == 7
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["use_cache"], config["vocab_size"]) == ("llava_llama", True, 2052)
    assert (tmp_path / "tokenizer.model").is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_peft_s_own_loader_reads_the_adapter(command, tmp_path, kind):
    """On the base with the projector in it, PEFT gives the logits of the model that was trained."""
    from peft import PeftModel

    v1 = ("--version", "v1", "--mm_projector_type", "mlp2x_gelu", "--mm_use_im_patch_token", "False")
    trainer = trainer_of(command(tmp_path / "lora", *v1, *KINDS[kind]))
    trainer.train()
    trainer.save_model()
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    merge(tmp_path / "lora", BASE, tmp_path / "merged", WriteSettings(torch.float32))
    # The merged model with the base's own layers in it is the base of the run.
    plain = load(tmp_path / "merged")
    layers = {k: v for k, v in load(BASE).state_dict().items() if k.startswith("model.layers.")}
    assert not plain.load_state_dict(layers, strict=False).unexpected_keys
    plain.set_vision_tower_apart()
    close(logits(PeftModel.from_pretrained(plain, tmp_path / "lora")), logits(trainer.model))
    assert settings["inference_mode"] is True


def test_biases_train_where_the_language_model_has_them(command, tmp_path):
    with pytest.raises(InvalidRequest, match="--lora_bias all: the language model has no biases"):
        trainer_of(command(tmp_path, "--lora_bias", "all"))
    shutil.copytree(BASE, tmp_path / "base")
    config = json.loads((BASE / "config.json").read_text()) | {"attention_bias": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    file = next((tmp_path / "base").glob("pytorch_model.bin"))
    weights = torch.load(file, weights_only=True)
    for name in [name for name in weights if "self_attn" in name and name.endswith("_proj.weight")]:
        weights[name.replace(".weight", ".bias")] = torch.zeros(64)
    torch.save(weights, file)
    trainer = trainer_of(command(tmp_path / "lora", "--lora_bias", "lora_only", model=tmp_path / "base"))
    trainer.train()
    trainer.save_model()
    assert load_file(tmp_path / "lora" / "adapter_model.safetensors")[f"{LAYER}.base_layer.bias"].abs().max() > 0
    close(logits(load(tmp_path / "lora", tmp_path / "base")), logits(trainer.model))


def test_frozen_weights_keep_16_bits_and_magnitudes_are_exact(command, tmp_path):
    words = command(tmp_path / "lora", "--use_dora", "--bf16", "True")
    trainer = trainer_of(words)
    own = dict(trainer.model.named_parameters())
    layer = "model.layers.0.self_attn.q_proj"
    weight = own[f"{layer}.base_layer.weight"]
    assert weight.dtype == torch.bfloat16
    magnitude = own[f"{layer}.lora_magnitude_vector.default.weight"]
    torch.testing.assert_close(magnitude.data, weight.float().norm(dim=1))
    assert {value.dtype for value in own.values() if value.requires_grad} == {torch.float32}
    trainer.train()
    assert all(value.isfinite().all() for value in own.values())


# ---- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "DoRA"])
def test_a_resumed_run_equals_an_uninterrupted_one(command, tmp_path, kind):
    steps = (
        *START_END,
        *KINDS[kind],
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--gradient_checkpointing",
        "True",
    )
    run(command(tmp_path / "whole", *steps))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "cut" / "checkpoint-2")
    run(command(tmp_path / "cut", *steps))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    expected = tensors(tmp_path / "whole")
    for name, value in tensors(tmp_path / "cut").items():
        assert torch.equal(value, expected[name]), name


def test_a_checkpoint_in_the_middle_loads_like_a_result(command, tmp_path):
    run(command(tmp_path / "lora", *START_END, "--save_strategy", "steps", "--save_steps", "4"))
    checkpoint = logits(load(tmp_path / "lora" / "checkpoint-4", BASE))
    assert torch.equal(checkpoint, logits(load(tmp_path / "lora", BASE)))


def test_another_rank_than_the_checkpoint_s_is_an_error(command, tmp_path):
    steps = ("--save_strategy", "steps", "--save_steps", "2")
    run(command(tmp_path / "one", *steps, "--max_steps", "2"))
    checkpoint = str(tmp_path / "one" / "checkpoint-2")
    with pytest.raises(InvalidRequest, match="lora_r was 4, now 8"):
        run(command(tmp_path / "two", "--max_steps", "2", "--lora_r", "8", "--resume_from_checkpoint", checkpoint))
    for name in ("llava_run.json", "files.json"):  # as if another program had written it
        (tmp_path / "one" / "checkpoint-2" / name).unlink()
    with pytest.raises(ShapeMismatch, match="lora_A"):
        run(command(tmp_path / "two", "--lora_r", "8", "--resume_from_checkpoint", checkpoint))
    with pytest.raises(CheckpointError, match="do not match those that this run saves"):
        run(command(tmp_path / "two", "--use_dora", "--resume_from_checkpoint", checkpoint))


def test_an_adapter_is_trained_on(command, tmp_path):
    run(command(tmp_path / "one", *START_END, "--use_rslora", "True"))
    more = ("--lora_r", "64", "--lora_alpha", "16", "--lora_weight_path", str(tmp_path / "one"), "--lora_dropout", "0")
    trainer = trainer_of(command(tmp_path / "two", *START_END, *more))
    close(logits(trainer.model), logits(load(tmp_path / "one", BASE)))
    trainer.model.train()
    trainer.train()
    trainer.save_model()
    close(logits(load(tmp_path / "two", BASE)), logits(trainer.model))
    settings = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["use_rslora"]) == (4, 8, True)


# ---- the vision tower ------------------------------------------------------------------------------------------------


TOWER = ("--unfreeze_mm_vision_tower", "True", "--mm_vision_tower_lr", "1e-3", "--mm_projector_lr", "2e-3")


def test_each_part_learns_at_its_own_rate(command, tmp_path):
    trainer = trainer_of(command(tmp_path, *TOWER, "--weight_decay", "0.1"))
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert len(rates) == len(trained)
    for name, parameter in trained.items():
        own = 1e-3 if "vision_tower" in name else 2e-3 if "mm_projector" in name else 1e-2
        assert rates[id(parameter)] == own, name
    # Layers above the selected one have no influence, so they do not train.
    assert any("encoder.layers.1." in name for name in trained)
    assert not any("unused_layers" in name or "post_layernorm" in name for name in trained)


@pytest.mark.parametrize("lora", ["True", "False"])
def test_a_trained_tower_is_saved_loaded_merged_and_resumed(command, tmp_path, tower, lora):
    steps = (*TOWER, "--lora_enable", lora, "--save_strategy", "steps", "--save_steps", "2", "--version", "v1")
    words = command(tmp_path / "out", *steps)
    words = words if lora == "True" else [w for w in words if w not in ("--lora_r", "4", "--lora_alpha", "8")]
    trainer = trainer_of(words)
    parameters = dict(trainer.model.named_parameters())
    name = "model.vision_tower.vision_tower.encoder.layers.0.mlp.fc1.weight"
    before = parameters[name].clone()
    trainer.train()
    assert not torch.equal(parameters[name], before)
    trainer.save_model()
    expected = logits(trainer.model)
    close(logits(load(tmp_path / "out", BASE if lora == "True" else None)), expected)
    if lora == "True":
        assert "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight" in whole(
            tmp_path / "out"
        )
        merge(tmp_path / "out", BASE, tmp_path / "merged", WriteSettings(torch.float32))
        close(logits(load(tmp_path / "merged")), expected)
    shutil.copytree(tmp_path / "out" / "checkpoint-2", tmp_path / "cut" / "checkpoint-2")
    words[words.index("--output_dir") + 1] = str(tmp_path / "cut")
    run(words)
    again = load(tmp_path / "cut", BASE if lora == "True" else None)
    assert torch.equal(logits(again), logits(load(tmp_path / "out", BASE if lora == "True" else None)))


def test_a_tower_that_an_earlier_run_trained_is_kept(command, tmp_path):
    words = ("--version", "v1", "--lora_enable", "False", "--lora_r", "64", "--lora_alpha", "16")
    run(command(tmp_path / "one", *words, "--unfreeze_mm_vision_tower", "True"))
    more = command(tmp_path / "two", *words, model=tmp_path / "one")
    at = more.index("--vision_tower")
    del more[at : at + 2]
    run(more)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    towers = [name for name in one if "vision_tower" in name]
    assert towers
    assert all(torch.equal(one[name], two[name]) for name in towers)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--tune_mm_mlp_adapter", "True"), "--lora_enable adapts the language model"),
        (("--freeze_backbone", "True"), "Remove --freeze_backbone"),
        (("--optim", "muon"), "--optim muon"),
        (("--bits", "4"), "--bits 4 needs an NVIDIA GPU and bitsandbytes"),
        (("--bits", "8"), "--bits 8 needs an NVIDIA GPU and bitsandbytes"),
        (("--bits", "4", "--lora_enable", "False"), "quantised weights cannot be trained"),
        (("--bits", "3"), "must be 4, 8 or 16"),
        (("--bits", "4", "--quant_type", "int4"), "must be nf4 or fp4"),
        (("--lora_r", "0"), "--lora_r 0: must be at least 1"),
        (("--lora_alpha", "-1"), "--lora_alpha -1"),
        (("--lora_dropout", "1.0"), "--lora_dropout 1.0"),
        (("--lora_bias", "some"), "--lora_bias some"),
        (("--mm_vision_tower_lr", "1e-5"), "--mm_vision_tower_lr: the vision tower is frozen"),
        (
            ("--unfreeze_mm_vision_tower", "True", "--tune_mm_mlp_adapter", "True", "--lora_enable", "False"),
            "--unfreeze_mm_vision_tower trains the vision tower",
        ),
    ],
)
def test_flags_that_contradict_each_other_are_refused_before_anything_is_loaded(command, tmp_path, more, message):
    words = command(tmp_path, *more, model="/does/not/exist")
    with pytest.raises(InvalidRequest, match=message):
        trainer_of(words)


def test_flags_that_contradict_the_adapter_to_train_on_are_refused(command, tmp_path):
    run(command(tmp_path / "one", *START_END, "--max_steps", "1"))
    with pytest.raises(InvalidRequest, match=r"--lora_r 8: the adapter in --lora_weight_path .* has 4"):
        trainer_of(command(tmp_path / "two", "--lora_r", "8", "--lora_weight_path", str(tmp_path / "one")))
    with pytest.raises(InvalidRequest, match="Give its base here, and the adapter"):
        trainer_of(command(tmp_path / "two", model=tmp_path / "one"))


def test_flags_without_effect_are_said(command, tmp_path):
    _, _, training = train.parse(command(tmp_path, "--lora_enable", "False", "--use_dora"))
    assert [note for note in training.notes if "ignored without --lora_enable True" in note] == [
        "--lora_r: ignored without --lora_enable True",
        "--lora_alpha: ignored without --lora_enable True",
        "--use_dora: ignored without --lora_enable True",
    ]
