"""Weights that were saved quantised are refused by every tool, whatever the config says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava.command_line import run
from llava.errors import QuantizedWeights
from llava.model import apply_delta, consolidate, convert, make_delta, weights_info
from llava.model.builder import load_pretrained_model
from llava.model.weights.quantised import method_in_config, method_of_tensor
from tests.support.checkpoints import DATA, TOWER, copy_without_weights, golden_tensors

LAYER = "model.layers.0.self_attn.q_proj"
TINY = DATA / "llava-v1.5-tiny"

# What each library writes in place of, or beside, the matrix of a linear layer.
SAVED = {
    "bitsandbytes, 8 bits": {
        f"{LAYER}.weight": torch.zeros(64, 64, dtype=torch.int8),
        f"{LAYER}.SCB": torch.ones(64),
        f"{LAYER}.weight_format": torch.tensor(0, dtype=torch.uint8),
    },
    "bitsandbytes, 4 bits": {
        f"{LAYER}.weight": torch.zeros(2048, 1, dtype=torch.uint8),
        f"{LAYER}.weight.absmax": torch.ones(64),
        f"{LAYER}.weight.quant_map": torch.ones(16),
        f"{LAYER}.weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
    },
    "GPTQ": {
        f"{LAYER}.qweight": torch.zeros(8, 64, dtype=torch.int32),
        f"{LAYER}.qzeros": torch.zeros(1, 8, dtype=torch.int32),
        f"{LAYER}.scales": torch.ones(1, 64, dtype=torch.float16),
        f"{LAYER}.g_idx": torch.zeros(64, dtype=torch.int32),
    },
    "FP8": {
        f"{LAYER}.weight": torch.zeros(64, 64).to(torch.float8_e4m3fn),
        f"{LAYER}.weight_scale_inv": torch.ones(1, 1),
    },
    "FP8 without scales": {f"{LAYER}.weight": torch.zeros(64, 64).to(torch.float8_e5m2)},
    "compressed-tensors": {
        f"{LAYER}.weight_packed": torch.zeros(64, 8, dtype=torch.int32),
        f"{LAYER}.weight_scale": torch.ones(64, 1),
        f"{LAYER}.weight_shape": torch.tensor([64, 64]),
    },
    "HQQ": {f"{LAYER}.W_q": torch.zeros(32, 64, dtype=torch.uint8)},
    "integers alone": {f"{LAYER}.weight": torch.zeros(64, 64, dtype=torch.int8)},
}


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    return golden_tensors()


def quantised(folder: Path, plain: dict[str, torch.Tensor], kind: str, *, suffix: str = ".safetensors") -> Path:
    """The golden v1.5 checkpoint with one matrix as a library saves it."""
    copy_without_weights(folder)
    tensors = {name: tensor for name, tensor in plain.items() if name != f"{LAYER}.weight"} | SAVED[kind]
    if suffix == ".safetensors":
        save_file(tensors, folder / "model.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("kind", SAVED)
def test_loading_refuses_them_and_says_what_to_use(tmp_path, plain, kind, suffix):
    folder = quantised(tmp_path / "model", plain, kind, suffix=suffix)
    with pytest.raises(QuantizedWeights) as raised:
        load_pretrained_model(folder, device="cpu", vision_tower=TOWER)
    message = str(raised.value)
    assert message.startswith(str(folder))
    assert LAYER in message
    assert "Use the checkpoint that is not quantised" in message


@pytest.mark.parametrize("tool", ["consolidate", "convert", "make-delta", "apply-delta", "info"])
def test_every_tool_refuses_them_and_writes_nothing(tmp_path, plain, capsys, tool):
    folder, target = quantised(tmp_path / "model", plain, "bitsandbytes, 8 bits"), tmp_path / "target"
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"load_in_8bit": True, "quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    base = str(DATA / "llama-vicuna-tiny")
    module, words = {
        "consolidate": (consolidate, ["--src", folder, "--dst", target]),
        "convert": (convert, ["--model-path", folder, "--output", target, "--vision-tower", TOWER]),
        "make-delta": (make_delta, ["--base", base, "--target", folder, "--delta", target]),
        "apply-delta": (apply_delta, ["--base", base, "--delta", folder, "--target", target]),
        "info": (weights_info, [folder]),
    }[tool]
    assert run(module.add_arguments, module.main, argv=list(map(str, words))) == 1
    printed = capsys.readouterr()
    assert "was quantised with bitsandbytes" in printed.err + printed.out
    assert not target.exists()


def test_a_config_that_names_a_method_over_plain_weights_is_mentioned_and_the_weights_are_used(tmp_path, caplog):
    shutil.copytree(TINY, tmp_path / "model", copy_function=shutil.copyfile)
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"quantization_config": {"bits": 4, "quant_method": "gptq"}}))
    load_pretrained_model(tmp_path / "model", device="cpu", vision_tower=TOWER)
    assert "quantization_config names GPTQ, but the weights are not quantised" in caplog.text


def test_methods_have_their_names():
    assert method_in_config({}) is None
    assert method_in_config({"quantization_config": {"bnb_4bit_quant_type": "nf4"}}) == "bitsandbytes"
    assert method_in_config({"text_config": {"quantization_config": {"quant_method": "awq"}}}) == "AWQ"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "bfloat16"),
        ("vision_tower.vision_model.embeddings.position_ids", "int64"),
        ("logit_scale", "float32"),
        ("encoder.layer.0.layer_scale1.lambda1", "float32"),
        ("embedder.normalization.num_batches_tracked", "int64"),
        ("model.layers.0.router.per_expert_scale", "float32"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "float32"),
    ],
)
def test_plain_tensors_are_no_quantised_ones(name, dtype):
    assert method_of_tensor(name, dtype) is None
