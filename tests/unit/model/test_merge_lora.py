"""A merged LoRA run gives the logits of base and adapter side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from llava.command_line import run
from llava.errors import CheckpointError
from llava.model import merge_lora
from llava.model.builder import load_pretrained_model
from llava.model.weights.lora import read_adapter
from llava.model.weights.reader import open_checkpoint, read_model_json
from tests.support.checkpoints import DATA, TOWER

V15, BASE = DATA / "llava-v1.5-tiny", DATA / "llama-vicuna-tiny"
IDS = torch.tensor([[1, 20, -200, 30]])
IMAGE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, images=IMAGE).logits


def lora_run(folder: Path, **settings) -> torch.Tensor:
    """A LoRA folder on the golden v1.5 as the original leaves it; returns the logits of the unmerged model."""
    _, model, _, _ = load_pretrained_model(V15, device="cpu", dtype="float32", vision_tower=TOWER)
    targets = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
    options = {"r": 4, "lora_alpha": 8, "target_modules": targets, "init_lora_weights": False} | settings
    torch.manual_seed(0)
    lora = get_peft_model(model, LoraConfig(**options))
    expected = logits(lora)
    lora.save_pretrained(folder)
    shutil.copyfile(V15 / "config.json", folder / "config.json")
    checkpoint = open_checkpoint(V15)
    projector = {f"base_model.model.{n}": checkpoint.tensor(n).clone() for n in checkpoint if "mm_projector.2" in n}
    torch.save(projector, folder / "non_lora_trainables.bin")
    return expected


def merge(folder: Path, target: Path, *more: str, base: Path = V15) -> int:
    argv = ["--model-path", str(folder), "--model-base", str(base), "--save-model-path", str(target), "--quiet", *more]
    return run(merge_lora.add_arguments, merge_lora.main, argv=argv)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 32}, "rank_pattern": {"down_proj": 2}},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True, "rank_pattern": {"layers.1.mlp.up_proj": 3}},
        {"target_modules": r"model\.embed_tokens|lm_head|model\.layers\.0\.mlp\.up_proj"},
        {"target_modules": r"model\.mm_projector\.0|model\.layers\.0\.mlp\.up_proj"},
    ],
    ids=["plain", "rank-stabilised", "patterns", "DoRA", "rank-stabilised DoRA", "embeddings", "projector"],
)
def test_merged_weights_give_the_logits_of_the_unmerged_model(tmp_path, settings):
    expected = lora_run(tmp_path / "lora", **settings)
    assert merge(tmp_path / "lora", tmp_path / "merged", "--dtype", "float32") == 0
    _, model, _, _ = load_pretrained_model(tmp_path / "merged", device="cpu", dtype="float32", vision_tower=TOWER)
    torch.testing.assert_close(logits(model), expected, atol=2e-4, rtol=1e-4)  # sums in another order
    assert read_model_json(tmp_path / "merged" / "config.json")["architectures"] == ["LlavaLlamaForCausalLM"]


def test_the_base_that_the_adapter_names_is_taken(tmp_path):
    lora_run(tmp_path / "lora")
    settings = read_model_json(tmp_path / "lora" / "adapter_config.json")
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(V15)}))
    argv = ["--model-path", str(tmp_path / "lora"), "--save-model-path", str(tmp_path / "merged"), "--quiet"]
    assert run(merge_lora.add_arguments, merge_lora.main, argv=argv) == 0
    assert open_checkpoint(tmp_path / "merged").dtype("model.norm.weight") == torch.float16  # the base's own


def test_a_projector_trained_along_replaces_the_base_s(tmp_path):
    lora_run(tmp_path / "lora")
    trained = {"base_model.model.model.mm_projector.0.bias": torch.full((64,), 0.25)}
    torch.save(trained, tmp_path / "lora" / "non_lora_trainables.bin")
    assert merge(tmp_path / "lora", tmp_path / "merged") == 0
    assert torch.equal(
        open_checkpoint(tmp_path / "merged").tensor("model.mm_projector.0.bias"), torch.full((64,), 0.25).half()
    )


def test_an_adapter_of_another_model_is_refused(tmp_path, capsys):
    lora_run(tmp_path / "lora")
    weights = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    first = next(name for name in weights if "lora_B" in name)
    save_file(weights | {first: weights[first][:-1].clone()}, tmp_path / "lora" / "adapter_model.safetensors")
    assert merge(tmp_path / "lora", tmp_path / "merged") == 1
    assert "error: " in (said := capsys.readouterr().err)
    assert "which cannot be multiplied" in said or "the model expects" in said
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "has no magnitudes"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is set"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"peft_type": "IA3"}, "adapter of type IA3"),
    ],
)
def test_other_kinds_of_adapter_are_refused(tmp_path, change, message):
    lora_run(tmp_path)
    settings = read_model_json(tmp_path / "adapter_config.json") | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=message):
        read_adapter(tmp_path)


def test_half_an_adapter_is_refused(tmp_path):
    lora_run(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "lora_A" in name}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match="only one of the two matrices"):
        read_adapter(tmp_path)


def test_a_folder_without_adapter_says_so(tmp_path, capsys):
    assert merge(BASE, tmp_path / "merged") == 1
    assert "no adapter_config.json" in capsys.readouterr().err
