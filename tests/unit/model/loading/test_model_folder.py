"""A folder's config is read as transformers reads it, without transformers."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig

from llava.errors import CheckpointError
from llava.model.loading.model_folder import read_model_folder


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llava", "text_config": {"vocab_size": 32064}, "vision_config": {"image_size": 56}},
        {"model_type": "llava", "text_config": {"model_type": "llama"}},
        {"model_type": "llava_next", "text_config": {"rope_theta": 5e5}, "vision_config": None},
    ],
)
def test_absent_keys_have_the_defaults_of_transformers(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = read_model_folder(tmp_path)
    theirs = AutoConfig.from_pretrained(tmp_path)
    ours = folder.config()
    for name in ("hidden_size", "vocab_size", "num_hidden_layers", "rope_parameters", "max_position_embeddings"):
        assert getattr(ours, name) == getattr(theirs.text_config, name)
    assert folder.vision_settings is not None
    for name in ("hidden_size", "image_size"):
        assert folder.vision_settings[name] == getattr(theirs.vision_config, name)
    assert ours.mm_vision_select_layer == theirs.vision_feature_layer
    if config["model_type"] == "llava_next":
        assert ours.image_grid_pinpoints == [[width, height] for height, width in theirs.image_grid_pinpoints]


@pytest.mark.parametrize(("name", "value"), [("hidden_size", "64"), ("num_attention_heads", 0), ("vocab_size", None)])
def test_a_size_that_is_not_a_positive_integer_is_named(tmp_path, name, value):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", name: value}))
    with pytest.raises(CheckpointError, match=rf"{name} is {value!r}; it must be a positive integer"):
        read_model_folder(tmp_path)
