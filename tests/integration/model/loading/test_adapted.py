"""Adapters of every origin: loaded beside their base, and merged into it, they give the logits of their own library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from llava.errors import CheckpointError, InvalidRequest, ShapeMismatch
from llava.model.builder import load_pretrained_model
from llava.model.loading.model_folder import read_model_folder
from llava.model.merge_lora import merge
from llava.model.weights.folder import WriteSettings
from tests.support.checkpoints import DATA, TOWER, copy_tokenizer, small_tower, write_nested

V15 = DATA / "llava-v1.5-tiny"
IDS = torch.tensor([[1, 20, -200, 30, 31]])
IMAGE = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
ADAPTER = "adapter_model.safetensors"


def load(folder: Path, base: Path | None = None, **options):
    return load_pretrained_model(folder, base, device="cpu", dtype="float32", **options)[1]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, images=IMAGE).logits


def logits_of_text(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 20, 30, 31]])).logits


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)  # sums in another order


def randomise(model, seed: int = 1) -> None:
    """Makes every part of an adapter show in the logits."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(noise * 0.1)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A LLaVA in the original's format, whose frozen vision tower has a folder of its own."""
    folder = tmp_path_factory.mktemp("base")
    tower = small_tower(folder / "tower")
    config = json.loads((V15 / "config.json").read_text())
    shutil.copytree(V15, folder / "model")
    weights = torch.load(V15 / "pytorch_model.bin", weights_only=True)
    weights = {name: value.float() for name, value in weights.items()}
    weights["model.mm_projector.0.weight"] = torch.randn(64, 32, generator=torch.Generator().manual_seed(5)) * 0.1
    torch.save(weights, folder / "model" / "pytorch_model.bin")
    config |= {"mm_vision_tower": str(tower), "mm_hidden_size": 32}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return folder / "model"


def adapter_on(base: Path, folder: Path, *, whole: Callable | None = None, **settings) -> torch.Tensor:
    """Writes an adapter that PEFT made on our own class; returns the logits of PEFT's model."""
    model = load(base)
    options = {"r": 4, "lora_alpha": 8, "target_modules": r"model\.layers\.\d+\.self_attn\.[qv]_proj"} | settings
    torch.manual_seed(0)
    lora = get_peft_model(model, LoraConfig(**options))
    randomise(lora)
    expected = logits(lora)
    lora.save_pretrained(folder, save_embedding_layers=False)
    shutil.copyfile(base / "config.json", folder / "config.json")
    return expected


def check(folder: Path, base: Path, expected: torch.Tensor, target: Path, **options) -> Path:
    """Loads and merges; both must give the expected logits."""
    close(logits(load(folder, base, **options)), expected)
    merge(folder, base, target, WriteSettings(torch.float32), **options)
    close(logits(load(target)), expected)
    return target


def rename(folder: Path, old: str, new: str) -> None:
    weights = load_file(folder / ADAPTER)
    assert any(old in name for name in weights)
    save_file({name.replace(old, new): value for name, value in weights.items()}, folder / ADAPTER)


# ---- adapters of our own class ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["lm_head.", "lm_head.modules_to_save.", "lm_head.modules_to_save.default."])
def test_an_output_layer_that_was_trained_whole_replaces_the_base_s(base, tmp_path, spelling):
    expected = adapter_on(base, tmp_path / "lora", modules_to_save=["lm_head"])
    assert (logits(load(base)) - expected).abs().max() > 0.1
    rename(tmp_path / "lora", "base_model.model.lm_head.", f"base_model.model.{spelling}")
    check(tmp_path / "lora", base, expected, tmp_path / "merged")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("base_model.model.", "module.base_model.model."),
        ("base_model.model.", "_fsdp_wrapped_module.base_model.model."),
        ("base_model.model.", "_orig_mod.base_model.model."),
        ("layers.0.", "layers.0._checkpoint_wrapped_module."),
        ("lora_A.weight", "lora_A.default.weight"),
        ("lora_A.weight", "lora_A.my_run.weight"),
        ("base_model.model.model.", "base_model.model.base_model.model.model."),
    ],
)
def test_names_as_trainers_and_older_releases_wrote_them_are_read(base, tmp_path, old, new):
    expected = adapter_on(base, tmp_path / "lora")
    rename(tmp_path / "lora", old, new)
    check(tmp_path / "lora", base, expected, tmp_path / "merged")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_a_whole_checkpoint_with_a_trainer_s_prefix_is_read(tmp_path, prefix):
    shutil.copytree(V15, tmp_path / "model", copy_function=shutil.copyfile)
    weights = torch.load(V15 / "pytorch_model.bin", weights_only=True)
    torch.save({prefix + name: value for name, value in weights.items()}, tmp_path / "model" / "pytorch_model.bin")
    close(logits_of_text(load(tmp_path / "model", vision_tower=TOWER)), logits_of_text(load(V15, vision_tower=TOWER)))


@pytest.mark.parametrize("spelling", ["vision_tower.vision_tower.", "vision_tower.vision_tower.vision_model."])
def test_an_adapter_of_the_vision_tower_is_applied(base, tmp_path, spelling):
    expected = adapter_on(base, tmp_path / "lora", target_modules=["q_proj", "fc1"])
    rename(tmp_path / "lora", "vision_tower.vision_tower.", spelling)
    merged = check(tmp_path / "lora", base, expected, tmp_path / "merged")
    assert (merged / "vision_tower" / "preprocessor_config.json").is_file()
    names = set(load_file(merged / "model.safetensors"))
    assert "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight" in names


def test_a_tower_that_moved_is_taken_from_where_the_user_says(base, tmp_path):
    expected = adapter_on(base, tmp_path / "lora", target_modules=["q_proj"])
    config = json.loads((base / "config.json").read_text())
    place = config["mm_vision_tower"]
    (tmp_path / "lora" / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "/gone"}))
    check(tmp_path / "lora", base, expected, tmp_path / "merged", vision_tower=place)


def test_a_whole_trained_tower_beside_the_adapter_is_loaded(base, tmp_path):
    adapter_on(base, tmp_path / "lora")
    model = load(tmp_path / "lora", base)
    tower = model.get_vision_tower()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.05)
    whole = {f"base_model.model.{n}": v.clone() for n, v in model.state_dict().items() if "vision_tower" in n}
    torch.save(whole, tmp_path / "lora" / "non_lora_trainables.bin")
    check(tmp_path / "lora", base, logits(model), tmp_path / "merged")


@pytest.mark.parametrize("trained", [("embed_tokens", "lm_head"), ("embed_tokens",), ("lm_head",)])
def test_a_grown_vocabulary_is_loaded_and_merged(base, tmp_path, trained):
    """Rows that the folder does not have are the mean of the base's, as training makes them."""
    adapter_on(base, tmp_path / "lora")
    model = load(tmp_path / "lora", base)
    embeddings = {"embed_tokens": model.get_input_embeddings(), "lm_head": model.get_output_embeddings()}
    before = {name: module.weight.clone() for name, module in embeddings.items()}
    model.resize_token_embeddings(2050, mean_resizing=False)
    whole = {}
    for name, module in (("embed_tokens", model.get_input_embeddings()), ("lm_head", model.get_output_embeddings())):
        table = torch.cat([before[name], before[name].mean(dim=0, keepdim=True).expand(2, -1)])
        if name in trained:
            table = table + 0.1 * torch.randn(2050, 64, generator=torch.Generator().manual_seed(2))
            whole[f"base_model.model.{'model.' if name == 'embed_tokens' else ''}{name}.weight"] = table
        module.weight.data = table
    torch.save(whole, tmp_path / "lora" / "non_lora_trainables.bin")
    expected = logits(model)
    assert expected.shape[-1] == 2050
    merged = check(tmp_path / "lora", base, expected, tmp_path / "merged")
    assert json.loads((merged / "config.json").read_text())["vocab_size"] == 2050


def test_an_int8_model_has_the_adapter_in_it(base, tmp_path):
    expected = adapter_on(base, tmp_path / "lora")
    quantised = logits(load(tmp_path / "lora", base, load_8bit=True))
    assert (quantised - expected).abs().max() < 0.2 * (logits(load(base)) - expected).abs().max()


# ---- adapters of transformers' class, as other tools write them: no config.json --------------------------------------


@pytest.fixture(scope="module")
def nested(tmp_path_factory) -> tuple[Path, Path, torch.Tensor]:
    """A base in transformers' format, a folder with an adapter alone, and the logits of the two as PEFT merges them."""
    folder = tmp_path_factory.mktemp("nested")
    lora = get_peft_model(
        write_nested(folder / "base"),
        LoraConfig(r=4, lora_alpha=8, target_modules=r".*\.(q_proj|up_proj|linear_1|fc2)", use_dora=True),
    )
    randomise(lora)
    lora.save_pretrained(folder / "lora")
    lora.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"):
        shutil.copyfile(folder / "base" / name, folder / "merged" / name)
    return folder / "base", folder / "lora", logits(load(folder / "merged"))


@pytest.mark.parametrize(
    "spelling", ["model.language_model.layers.", "language_model.model.layers.", "language_model.layers."]
)
def test_an_adapter_of_transformers_form_is_applied_to_a_base_in_that_form(nested, tmp_path, spelling):
    base, adapter, expected = nested
    shutil.copytree(adapter, tmp_path / "checkpoint-500")
    rename(tmp_path / "checkpoint-500", "model.language_model.layers.", spelling)
    assert (logits(load(base)) - expected).abs().max() > 0.1
    check(tmp_path / "checkpoint-500", base, expected, tmp_path / "merged")
    assert "text_config" in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_an_adapter_of_transformers_form_is_applied_to_a_base_in_the_original_s_form(nested, tmp_path):
    base, adapter, expected = nested
    load(base).save_pretrained(tmp_path / "flat")
    copy_tokenizer(tmp_path / "flat")
    check(adapter, tmp_path / "flat", expected, tmp_path / "merged")


def test_a_run_of_ours_on_a_base_in_transformers_form_merges_to_the_original_s_form(nested, tmp_path):
    base, adapter, expected = nested
    shutil.copytree(adapter, tmp_path / "lora")
    load(base).config.save_pretrained(tmp_path / "lora")
    merged = check(tmp_path / "lora", base, expected, tmp_path / "merged")
    assert read_model_folder(merged).kind == "flat"
    assert "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight" in load_file(merged / "model.safetensors")


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_a_folder_with_nothing_but_an_adapter_says_what_is_missing(nested):
    with pytest.raises(CheckpointError, match=r"holds a LoRA adapter and no config\.json.*--model-base"):
        load(nested[1])


def test_an_adapter_is_no_base(nested):
    with pytest.raises(CheckpointError, match="holds a LoRA adapter"):
        load(nested[1], nested[1])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("base_model.model.model.layers.9.mlp.up_proj.weight", (128, 64), "layers.9.mlp.up_proj.weight, but the model"),
        ("base_model.model.model.mm_resampler.weight", (8, 8), "mm_resampler.weight, but its config.json"),
        ("base_model.model.model.embed_tokens.weight", (2000, 64), r"has shape \[2000, 64\]"),
        ("base_model.model.model.embed_tokens.weight", (2048, 65), r"has shape \[2048, 65\]"),
        ("base_model.model.model.norm.weight", (65,), r"has shape \[65\]"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", (1, 64), "kind of adapter tensor"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", (64,), "is a bias of LoRA"),
    ],
)
def test_a_tensor_that_belongs_nowhere_is_refused_by_name(base, tmp_path, name, shape, message):
    adapter_on(base, tmp_path / "lora")
    torch.save({name: torch.zeros(shape)}, tmp_path / "lora" / "non_lora_trainables.bin")
    for attempt in (
        lambda: load(tmp_path / "lora", base),
        lambda: merge(tmp_path / "lora", base, tmp_path / "merged", WriteSettings()),
    ):
        with pytest.raises((CheckpointError, ShapeMismatch), match=message):
            attempt()
    assert not (tmp_path / "merged").exists()


def test_a_change_of_another_layer_than_the_base_has_is_refused(base, tmp_path):
    adapter_on(base, tmp_path / "lora")
    rename(tmp_path / "lora", "layers.1.", "layers.7.")
    with pytest.raises(CheckpointError, match=r"changes model\.layers\.7\.\S+, which the base does not"):
        load(tmp_path / "lora", base)


def test_another_tower_is_refused_where_the_adapter_changes_the_base_s_own(nested):
    base, adapter, _ = nested
    with pytest.raises(InvalidRequest, match="Remove --vision-tower"):
        load(adapter, base, vision_tower=base)


def test_changes_of_a_tied_output_layer_are_refused(base, tmp_path):
    adapter_on(base, tmp_path / "lora", target_modules=["lm_head", "q_proj"])
    for folder in (base, tmp_path / "lora"):
        config = json.loads((folder / "config.json").read_text())
        target = tmp_path / "tied" if folder == base else folder
        if folder == base:
            shutil.copytree(base, target)
        (target / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        load(tmp_path / "lora", tmp_path / "tied")
