"""Small random checkpoints of every form, written to disk as their makers write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    PreTrainedConfig,
)
from transformers import LlavaConfig as NestedConfig
from transformers import LlavaNextConfig as NestedNextConfig

from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.weights.reader import open_checkpoint

DATA = Path(__file__).resolve().parents[1] / "data"
TOWER = DATA / "clip-tiny"
VOCABULARY = 2048
GRID = [[112, 56], [56, 112], [112, 112]]


def copy_tokenizer(target: Path, source: str = "llava-v1.5-tiny") -> None:
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(DATA / source / name, target / name)


def vision_config(image_size: int = 56) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=14,
    )


def text_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
    )


def write_preprocessor(folder: Path, image_size: int = 56) -> None:
    settings = json.loads((TOWER / "preprocessor_config.json").read_text())
    settings["size"] = {"shortest_edge": image_size}
    settings["crop_size"] = {"height": image_size, "width": image_size}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough that every part of the model shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.15 if parameter.dim() > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + (parameter.dim() == 1) * 1.0)


def write_nested(
    folder: Path, *, strategy: str = "default", tiles: bool = False, text: PreTrainedConfig | None = None
) -> torch.nn.Module:
    """A transformers-format LLaVA (or LLaVA-NeXT, `tiles`) in `folder`; returns transformers' own model."""
    common = {
        "text_config": text or text_config(),
        "vision_config": vision_config(),
        "image_token_index": VOCABULARY - 1,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": strategy,
        "projector_hidden_act": "gelu",
    }
    if tiles:
        pinpoints = [[height, width] for width, height in GRID]
        model = LlavaNextForConditionalGeneration(NestedNextConfig(image_grid_pinpoints=pinpoints, **common))
    else:
        model = LlavaForConditionalGeneration(NestedConfig(image_seq_length=16, **common))
    randomise(model)
    model.eval().save_pretrained(folder)
    copy_tokenizer(folder)
    write_preprocessor(folder)
    return model


def small_tower(folder: Path, image_size: int = 56) -> Path:
    """A vision tower of 16 patches in `folder`."""
    from transformers import CLIPVisionModel

    tower = CLIPVisionModel(vision_config(image_size))
    randomise(tower, seed=7)
    tower.save_pretrained(folder)
    write_preprocessor(folder, image_size)
    return folder


def small_llava(tower: Path, **settings: object) -> LlavaLlamaForCausalLM:
    """A random LLaVA in memory, 16 patches an image, `<im_patch>` = 2049."""
    config = LlavaConfig(
        **{
            **text_config().to_dict(),
            "vocab_size": VOCABULARY + 4,
            "mm_vision_tower": str(tower),
            "mm_hidden_size": 32,
            "mm_vision_select_layer": -2,
            "im_patch_token": VOCABULARY + 1,
            **settings,
        }
    )
    model = LlavaLlamaForCausalLM(config)
    randomise(model, seed=3)
    model.attach_vision_tower(
        build_vision_tower(str(tower), select_layer=-2, select_feature=config.mm_vision_select_feature or "patch")
    )
    return model.eval()


def write_small_llava(folder: Path, tower: Path, **settings: object) -> Path:
    """`small_llava` as a folder in the original's format, with the tokenizer of the golden v0 checkpoint."""
    model = small_llava(tower, **settings)
    model.save_pretrained(folder)
    copy_tokenizer(folder, "llava-v0-tiny")
    shutil.copy(DATA / "llava-v0-tiny" / "added_tokens.json", folder / "added_tokens.json")
    return folder


def golden_tensors(name: str = "llava-v1.5-tiny") -> dict[str, torch.Tensor]:
    """The weights of a golden checkpoint, apart from its files."""
    checkpoint = open_checkpoint(DATA / name)
    return {each: checkpoint.tensor(each).clone() for each in checkpoint}


def copy_without_weights(folder: Path, name: str = "llava-v1.5-tiny") -> Path:
    """A golden checkpoint in `folder` without its weights; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (DATA / name).iterdir():
        if file.suffix not in (".safetensors", ".bin") and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
    return folder
