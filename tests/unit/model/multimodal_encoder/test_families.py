"""What configs and flags may say of a tower, and what is refused in one sentence."""

from __future__ import annotations

import pytest

from llava.errors import CheckpointError
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.families import FAMILIES, family_of, num_prefix_tokens, read_select_layer
from tests.support.towers import write_tower


@pytest.mark.parametrize(
    ("value", "layer"),
    [(-2, -2), ("-2", -2), ([-2, -5], [-2, -5]), ((3,), [3]), ("[-2, 6]", [-2, 6]), ("-2,-5", [-2, -5])],
)
def test_a_layer_is_a_number_or_a_list_in_any_spelling(value, layer):
    assert read_select_layer(value) == layer


@pytest.mark.parametrize("value", ["last", "", [], 1.5, True, None, ["-2"], "-2 -5"])
def test_anything_else_is_no_layer(value):
    with pytest.raises(CheckpointError, match="must be a layer such as -2, or a list"):
        read_select_layer(value)


def test_a_model_of_timm_says_what_to_use_instead():
    with pytest.raises(CheckpointError, match=r"library timm, which needs torchvision .* Use transformers' own model"):
        family_of("timm_wrapper", "folder")
    with pytest.raises(CheckpointError, match="folder: a model of type 'bert' cannot be the vision tower"):
        family_of("bert", "folder")


@pytest.mark.parametrize("kind", [kind for kind, family in FAMILIES.items() if not family.num_class_tokens])
def test_a_tower_without_a_class_token_cannot_keep_it(tmp_path, kind):
    write_tower(tmp_path, kind)
    with pytest.raises(CheckpointError, match=f"cls_patch, but a {FAMILIES[kind].model_class} has no class token"):
        build_vision_tower(str(tmp_path), select_feature="cls_patch")


def test_a_stage_that_a_tower_does_not_have_is_an_error(tmp_path):
    write_tower(tmp_path, "resnet")
    with pytest.raises(CheckpointError, match=r"is 5, but the .* has 4 stages and a stem \(allowed: -5 to 4\)"):
        build_vision_tower(str(tmp_path), select_layer=5)


def test_stages_of_different_grids_are_not_joined(tmp_path):
    write_tower(tmp_path, "convnext")
    with pytest.raises(CheckpointError, match=r"different grids \(2 x 2, 4 x 4\), whose features cannot be joined"):
        build_vision_tower(str(tmp_path), select_layer=[-1, -2])


def test_registers_count_among_the_features_before_the_patches():
    assert num_prefix_tokens({"model_type": "dinov3_vit"}) == 5
    assert num_prefix_tokens({"model_type": "dinov2_with_registers", "num_register_tokens": 2}) == 3
    assert num_prefix_tokens({"model_type": "dinov2", "num_register_tokens": 2}) == 1
