"""What a nested config says of the tower, its layers and its images."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava.command_line import run
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import CheckpointError
from llava.model import convert
from llava.model.builder import load_pretrained_model
from llava.model.transformers_format.nested import nested_settings
from llava.model.weights.reader import read_model_json
from tests.support.checkpoints import (
    VOCABULARY,
    copy_tokenizer,
    randomise,
    text_config,
    vision_config,
    write_preprocessor,
)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def settings_of(path, tower: dict[str, object], **more: object):
    return nested_settings(path, {"model_type": "llava", "text_config": {}, "vision_config": tower, **more})


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "dinov3_vit", "deit", "resnet", "siglip2_vision_model"])
def test_a_tower_of_which_transformers_takes_other_features_is_refused(tmp_path, kind):
    with pytest.raises(CheckpointError, match=f"other features than those of patches from a tower of type {kind}"):
        settings_of(tmp_path, {"model_type": kind, "hidden_size": 8})


@pytest.mark.parametrize(
    ("kind", "strategy", "feature"),
    [
        ("clip_vision_model", "default", "patch"),
        ("dinov2", "full", "cls_patch"),
        ("siglip_vision_model", "full", "patch"),
        ("siglip", "full", "patch"),
    ],
)
def test_which_features_are_kept(tmp_path, kind, strategy, feature):
    ours, _ = settings_of(tmp_path, {"model_type": kind}, vision_feature_select_strategy=strategy)
    assert ours["mm_vision_select_feature"] == feature
    assert ours["mm_hidden_size"] == 768


def test_vip_llava_on_a_tower_without_a_class_token_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"ViP-LLaVA drops the first .* a SiglipVisionModel, has no class"):
        settings_of(tmp_path, {"model_type": "siglip_vision_model"}, model_type="vipllava")


@pytest.mark.parametrize(("value", "message"), [("x", "must be default or full"), ("cls", "must be default or full")])
def test_another_strategy_is_refused(tmp_path, value, message):
    with pytest.raises(CheckpointError, match=message):
        settings_of(tmp_path, {"model_type": "dinov2"}, vision_feature_select_strategy=value)


@pytest.mark.parametrize(("pads", "mode"), [(True, "pad"), (False, None)])
def test_an_image_processor_that_pads_says_so(tmp_path, pads, mode):
    processor = {"image_processor_type": "LlavaImageProcessorFast", "do_pad": pads}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    ours, _ = settings_of(tmp_path, {"model_type": "clip_vision_model"})
    assert ours.get("image_aspect_ratio") == mode


def test_features_of_several_layers_are_read_and_exported(tmp_path):
    config = LlavaConfig(
        text_config=text_config(),
        vision_config=vision_config(),
        image_token_index=VOCABULARY - 1,
        vision_feature_layer=[-2, 1],
        image_seq_length=16,
    )
    theirs = LlavaForConditionalGeneration(config).eval()
    randomise(theirs)
    nested, original, export = (tmp_path / name for name in ("nested", "original", "export"))
    theirs.save_pretrained(nested)
    copy_tokenizer(nested)
    write_preprocessor(nested)
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    for source, target in ((nested, original), (original, export)):
        words = ["--model-path", str(source), "--output", str(target), "--dtype", "float32", "--quiet"]
        template = ["--conv-mode", "vicuna_v1"] if source == original else []
        assert run(convert.add_arguments, convert.main, argv=[*words, *template]) == 0
    assert read_model_json(original / "config.json")["mm_vision_select_layer"] == [-2, 1]
    assert read_model_json(export / "config.json")["vision_feature_layer"] == [-2, 1]
    again = LlavaForConditionalGeneration.from_pretrained(export, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([[1, *[VOCABULARY - 1] * 16, 60]]), pixel_values=pixels).logits
        wide = torch.tensor([[1, *[again.config.image_token_id] * 16, 60]])
        found = again(input_ids=wide, pixel_values=pixels).logits[..., :VOCABULARY]
        torch.testing.assert_close(found, expected, **CLOSE)
        for folder in (nested, original, export):
            _, ours, *_ = load_pretrained_model(folder, device="cpu", dtype="float32")
            logits = ours(input_ids=torch.tensor([[1, IMAGE_TOKEN_INDEX, 60]]), images=pixels).logits
            torch.testing.assert_close(logits[..., :VOCABULARY], expected, **CLOSE)
