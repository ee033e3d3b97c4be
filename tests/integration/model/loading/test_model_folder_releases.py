"""Folders as the releases of LLaVA-NeXT and LLaVA-OneVision wrote them; oracle: transformers' own model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from llava.command_line import run
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import CheckpointError
from llava.mm_utils import process_images
from llava.model import convert, weights_info
from llava.model.builder import load_pretrained_model
from tests.support.checkpoints import GRID, VOCABULARY, copy_tokenizer, randomise, vision_config, write_preprocessor
from tests.support.decoders import tiny_decoder

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
IMAGE_ID = VOCABULARY - 1
SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
TILES = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": GRID, "mm_patch_merge_type": "spatial_unpad"}


@dataclass(frozen=True)
class Release:
    """How one release writes its folder."""

    decoder: str
    model_type: str
    architecture: str
    keys: dict[str, Any] = field(default_factory=dict)
    siglip: bool = False
    keeps_tower: bool = True
    """Whether the tower is among the weights."""
    bias: bool = True


RELEASES = {
    "llava-v1.6-mistral-7b": Release("mistral", "llava_mistral", "LlavaMistralForCausalLM", TILES),
    "llava-v1.6-34b, on LLaMA": Release("llama", "llava", "LlavaLlamaForCausalLM", TILES),
    "on Mixtral": Release("mixtral", "llava_mixtral", "LlavaMixtralForCausalLM", keeps_tower=False),
    "llava-next-interleave-qwen": Release("qwen2", "llava_qwen", "LlavaQwenForCausalLM", TILES, siglip=True),
    "llava-onevision-qwen2": Release(
        "qwen2",
        "llava",
        "LlavaQwenForCausalLM",
        {**TILES, "image_aspect_ratio": "anyres_max_2", "mm_spatial_pool_mode": "bilinear", "mm_pooling_position": "x"},
        siglip=True,
    ),
    "projector without bias": Release(
        "qwen2", "llava_qwen", "LlavaQwenForCausalLM", {"mm_projector_bias": False}, keeps_tower=False, bias=False
    ),
}


def model_of_transformers(release: Release) -> Any:
    pinpoints = [[height, width] for width, height in GRID]
    common: dict[str, Any] = {
        "text_config": tiny_decoder(release.decoder),
        "vision_config": SiglipVisionConfig(**SIGLIP, vision_use_head=False) if release.siglip else vision_config(),
        "image_token_index": IMAGE_ID,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "full" if release.siglip else "default",
        "multimodal_projector_bias": release.bias,
    }
    mode = release.keys.get("image_aspect_ratio", "pad")
    if mode == "anyres":
        model: Any = LlavaNextForConditionalGeneration(LlavaNextConfig(image_grid_pinpoints=pinpoints, **common))
    elif mode.startswith("anyres_max"):
        model = LlavaOnevisionForConditionalGeneration(
            LlavaOnevisionConfig(image_grid_pinpoints=pinpoints, vision_aspect_ratio=mode, **common)
        )
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(image_seq_length=16, **common))
    randomise(model)
    return model.eval()


def write_release(folder: Path, release: Release, theirs: Any) -> Path:
    """Writes a model's weights under the names of the release."""
    tower = folder / "tower"
    tower.mkdir(parents=True)
    kind = SiglipVisionModel if release.siglip else CLIPVisionModel
    made = kind(theirs.config.vision_config)
    made.load_state_dict(theirs.model.vision_tower.state_dict())
    made.save_pretrained(tower)
    write_preprocessor(tower)
    if release.siglip:
        settings = {"size": {"height": 56, "width": 56}, "image_processor_type": "SiglipImageProcessor"}
        settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
        (tower / "preprocessor_config.json").write_text(json.dumps(settings))
    weights = {}
    # transformers' own writer gives a decoder's names on disk, which for experts differ from those in memory.
    theirs.model.language_model.save_pretrained(folder / "decoder")
    weights |= read_all(folder / "decoder", "model.")
    weights["lm_head.weight"] = theirs.lm_head.weight
    for number, name in ((0, "linear_1"), (2, "linear_2")):
        for key, value in getattr(theirs.model.multi_modal_projector, name).state_dict().items():
            weights[f"model.mm_projector.{number}.{key}"] = value
    if "unpad" in release.keys.get("mm_patch_merge_type", ""):
        weights["model.image_newline"] = theirs.model.image_newline
    if release.keeps_tower:
        # The releases on SigLIP dropped the last layer of the tower, which never runs.
        dropped = f"encoder.layers.{SIGLIP['num_hidden_layers'] - 1}." if release.siglip else "nothing"
        for key, value in made.state_dict().items():
            key = key.removeprefix("vision_model.")
            if not key.startswith(dropped):
                weights[f"model.vision_tower.vision_tower.vision_model.{key}"] = value
    shutil.rmtree(folder / "decoder")
    save_file(
        {key: value.detach().clone().contiguous() for key, value in weights.items()}, folder / "model.safetensors"
    )
    text = theirs.config.text_config.to_dict()
    config = {
        **text,
        "model_type": release.model_type,
        "architectures": [release.architecture],
        "mm_vision_tower": str(tower),
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "mm_patch_merge_type": "flat",
        "tokenizer_model_max_length": 4096,
        "use_mm_proj": True,
        "unfreeze_mm_vision_tower": release.keeps_tower,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        **release.keys,
    }
    (folder / "config.json").write_text(json.dumps(config))
    copy_tokenizer(folder)
    return folder


def read_all(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {prefix + key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


@pytest.mark.parametrize("name", RELEASES)
def test_a_folder_of_the_release_gives_the_logits_of_transformers(tmp_path, name):
    release = RELEASES[name]
    theirs = model_of_transformers(release)
    folder = write_release(tmp_path, release, theirs)
    _, ours, image_processor, _ = load_pretrained_model(folder, device="cpu", dtype="float32")
    image = Image.effect_noise((150, 90), 80).convert("RGB")
    pixels = process_images([image], image_processor, ours.config)
    count = ours.count_features(list(pixels), [image.size])[0]
    prompt = torch.tensor([[1, 30, IMAGE_TOKEN_INDEX, 60, 70]])
    theirs_prompt = torch.tensor([[1, 30, *[IMAGE_ID] * count, 60, 70]])
    sizes = {"image_sizes": torch.tensor([[image.height, image.width]])} if pixels.dim() == 5 else {}
    with torch.no_grad():
        expected = theirs(input_ids=theirs_prompt, pixel_values=pixels, **sizes).logits
        found = ours(input_ids=prompt, images=list(pixels), image_sizes=[image.size]).logits
    torch.testing.assert_close(found, expected, **CLOSE)


def test_onevision_takes_several_images_as_transformers_does(tmp_path):
    """Oracle: the image processor of transformers and its model, given two images of one prompt."""
    release = RELEASES["llava-onevision-qwen2"]
    theirs = model_of_transformers(release)
    folder = write_release(tmp_path, release, theirs)
    _, ours, image_processor, _ = load_pretrained_model(folder, device="cpu", dtype="float32")
    images = [Image.effect_noise(size, 80).convert("RGB") for size in ((150, 90), (56, 56))]
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": 56, "width": 56},
        image_grid_pinpoints=[[height, width] for width, height in GRID],
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    inputs = processor([images], return_tensors="pt")
    pixels = list(process_images(images, image_processor, ours.config, num_images=2))
    counts = ours.count_features(pixels, [image.size for image in images])
    assert counts == [17, 17]
    prompt = torch.tensor([[1, IMAGE_TOKEN_INDEX, 30, IMAGE_TOKEN_INDEX, 60, 70]])
    theirs_prompt = torch.tensor([[1, *[IMAGE_ID] * 17, 30, *[IMAGE_ID] * 17, 60, 70]])
    with torch.no_grad():
        expected = theirs(input_ids=theirs_prompt, **inputs).logits
        found = ours(input_ids=prompt, images=pixels, image_sizes=[image.size for image in images]).logits
    torch.testing.assert_close(found, expected, **CLOSE)


def test_weights_info_calls_a_release_by_its_decoder(tmp_path, capsys):
    release = RELEASES["llava-v1.6-mistral-7b"]
    folder = write_release(tmp_path, release, model_of_transformers(release))
    assert run(weights_info.add_arguments, weights_info.main, argv=[str(folder)]) == 0
    assert "mistral" in capsys.readouterr().out.lower()


def test_vip_llava_joins_the_features_of_several_layers(tmp_path):
    config = VipLlavaConfig(
        text_config=tiny_decoder("llama"),
        vision_config=vision_config(),
        image_token_index=IMAGE_ID,
        vision_feature_layers=[-2, -3, 1],
    )
    theirs = VipLlavaForConditionalGeneration(config).eval()
    randomise(theirs)
    folder = tmp_path / "nested"
    theirs.save_pretrained(folder)
    copy_tokenizer(folder)
    write_preprocessor(folder)
    _, ours, image_processor, _ = load_pretrained_model(folder, device="cpu", dtype="float32")
    pixels = process_images([Image.effect_noise((70, 70), 80).convert("RGB")], image_processor, ours.config)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([[1, *[IMAGE_ID] * 16, 60]]), pixel_values=pixels).logits
        found = ours(input_ids=torch.tensor([[1, IMAGE_TOKEN_INDEX, 60]]), images=pixels).logits
    torch.testing.assert_close(found, expected, **CLOSE)
    for source, target in (("nested", "original"), ("original", "export")):  # there and back
        words = ["--model-path", str(tmp_path / source), "--output", str(tmp_path / target), "--dtype", "float32"]
        assert run(convert.add_arguments, convert.main, argv=[*words, "--quiet"]) == 0
    again = VipLlavaForConditionalGeneration.from_pretrained(tmp_path / "export", dtype=torch.float32)
    marker = again.config.image_token_id
    with torch.no_grad():
        logits = again(input_ids=torch.tensor([[1, *[marker] * 16, 60]]), pixel_values=pixels).logits
    torch.testing.assert_close(logits[..., :VOCABULARY], expected, **CLOSE)


def test_a_folder_whose_first_patch_would_be_lost_is_refused(tmp_path):
    """transformers takes the first patch of SigLIP for a class token."""
    theirs = model_of_transformers(RELEASES["projector without bias"])
    theirs.config.vision_config = SiglipVisionConfig(**SIGLIP)
    theirs.config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"vision_feature_select_strategy is 'default'.*Set it to full"):
        load_pretrained_model(tmp_path, device="cpu")
