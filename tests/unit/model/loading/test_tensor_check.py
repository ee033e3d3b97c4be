"""The shapes that a checkpoint is checked against are those of the model that is built from its config."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llava import pocket
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.loading.model_folder import LLAMA_DEFAULTS, read_model_folder
from llava.model.loading.tensor_check import expected_shapes
from tests.support.checkpoints import DATA, write_nested

SMALL = {
    "vocab_size": 90,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
VISION = {"mm_vision_tower": "x", "mm_hidden_size": 20, "mm_vision_select_layer": -2}


def shapes_of_model(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = LlavaLlamaForCausalLM(config).state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    return {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        SMALL | VISION,
        SMALL | VISION | {"mm_projector_type": "mlp3x_gelu"},
        SMALL | VISION | {"mm_hidden_size": 48, "mm_projector_type": "identity"},
        SMALL | VISION | {"mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "spatial_unpad"},
        SMALL | {"num_key_value_heads": 2, "head_dim": 16},
        SMALL | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ],
)
def test_shapes_are_those_of_the_model(settings: dict[str, Any]):
    assert expected_shapes(settings) == shapes_of_model(LlavaConfig(**settings))


@pytest.mark.parametrize("name", ["llava-v0-tiny", "llava-v1.5-tiny", "llama-vicuna-tiny", "tiny"])
def test_shapes_of_folders_are_those_of_their_models(name: str):
    folder = read_model_folder(pocket.find() if name == "tiny" else DATA / name)
    assert expected_shapes(folder.settings) == shapes_of_model(folder.config())


@pytest.mark.parametrize("tiles", [False, True])
def test_shapes_of_a_folder_in_transformers_format(tmp_path, tiles: bool):
    write_nested(tmp_path, tiles=tiles)
    folder = read_model_folder(tmp_path)
    assert expected_shapes(folder.settings) == shapes_of_model(folder.config())


def test_default_sizes_are_those_of_transformers():
    config = LlavaConfig()
    assert {name: getattr(config, name) for name in LLAMA_DEFAULTS} == LLAMA_DEFAULTS
