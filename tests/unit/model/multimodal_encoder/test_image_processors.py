"""The pixels that a tower is given are those of transformers' own image processors."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from llava.errors import CheckpointError
from llava.mm_utils import process_images, processed_edge
from llava.model.multimodal_encoder.families import FAMILIES
from llava.model.multimodal_encoder.image_processors import load_image_processor

GRID = [[56, 112], [112, 56], [112, 112]]
"""Tile grids as transformers writes them, (height, width)."""
SQUARE = {"height": 56, "width": 56}
SIZES = [(120, 40), (41, 97), (100, 90), (56, 56), (300, 30)]


def image_of(size: tuple[int, int]) -> Image.Image:
    """An image whose colours differ along both sides."""
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))


def written(folder, name: str | None, file: str = "preprocessor_config.json", **settings: Any):
    """A folder with the settings of an image processor."""
    named = {} if name is None else {"image_processor_type": name}
    (folder / file).write_text(json.dumps({**named, **settings}))
    return folder


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("LlavaNextImageProcessor", {"size": {"shortest_edge": 56}, "crop_size": SQUARE}),
        ("LlavaOnevisionImageProcessorFast", {"size": SQUARE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    ],
)
def test_tiles_are_those_of_transformers(tmp_path, name, settings, size):
    folder = written(tmp_path, name, image_grid_pinpoints=GRID, **settings)
    ours = load_image_processor(folder)
    theirs = getattr(transformers, name.removesuffix("Fast") + "Pil").from_pretrained(folder)
    config = SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=[[w, h] for h, w in GRID])
    pixels = process_images([image_of(size)], ours, config)[0]
    torch.testing.assert_close(pixels, theirs(image_of(size), return_tensors="pt")["pixel_values"][0])
    assert processed_edge(ours) == 56


@pytest.mark.parametrize("size", SIZES)
def test_padded_images_are_those_of_transformers(tmp_path, size):
    settings = {"size": {"shortest_edge": 56}, "crop_size": SQUARE, "do_pad": True}
    folder = written(tmp_path, "LlavaImageProcessor", **settings)
    theirs = transformers.LlavaImageProcessorPil.from_pretrained(folder)
    pixels = process_images([image_of(size)], load_image_processor(folder), SimpleNamespace(image_aspect_ratio="pad"))
    torch.testing.assert_close(pixels, theirs(image_of(size), return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_a_file_without_a_name_is_for_the_processor_of_the_tower(tmp_path, kind):
    if kind == "siglip2_vision_model":
        processor = load_image_processor(written(tmp_path, None, patch_size=14, max_num_patches=16), kind)
        assert (type(processor).__name__, processed_edge(processor)) == ("SiglipImageProcessorPil", 56)
        return
    name = FAMILIES[kind].image_processor
    size = {"shortest_edge": 48} if name == "ConvNextImageProcessor" else {"height": 48, "width": 48}
    processor = load_image_processor(written(tmp_path, None, size=size, crop_size=48), kind)
    assert type(processor).__name__ == f"{name}Pil"
    pixels = process_images([image_of((90, 60))], processor, None)
    assert pixels.shape == (1, 3, 48, 48)
    assert processed_edge(processor) == 48


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"feature_extractor_type": "ConvNextFeatureExtractor"}, "ConvNextImageProcessorPil"),
        ({"image_processor_type": "SiglipImageProcessorFast"}, "SiglipImageProcessorPil"),
        ({"image_processor_type": "ViTImageProcessorPil"}, "ViTImageProcessorPil"),
    ],
)
def test_all_spellings_of_a_processor_are_read(tmp_path, settings, name):
    assert type(load_image_processor(written(tmp_path, None, **settings))).__name__ == name
    (tmp_path / "preprocessor_config.json").unlink()
    written(tmp_path, None, "processor_config.json", image_processor=settings)
    assert type(load_image_processor(tmp_path)).__name__ == name


@pytest.mark.parametrize("name", ["PixtralImageProcessor", "Qwen2VLImageProcessorFast", "TimmWrapperImageProcessor"])
def test_a_processor_that_makes_no_square_is_refused_by_name(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"image_processor_type is '{name.removesuffix('Fast')}', which does not"):
        load_image_processor(written(tmp_path, name))


def test_a_processor_of_oblong_images_is_refused(tmp_path):
    oblong = {"height": 48, "width": 64}
    with pytest.raises(CheckpointError, match=r"makes images of 64 x 48 pixels; .* Set size to one number"):
        load_image_processor(written(tmp_path, "SiglipImageProcessor", size=oblong))
    with pytest.raises(CheckpointError, match=r"makes images of 64 x 48 pixels; .* Set crop_size to one number"):
        load_image_processor(written(tmp_path, "CLIPImageProcessor", crop_size=oblong))


def test_a_naflex_processor_makes_a_square_of_its_patches(tmp_path):
    folder = written(tmp_path, "Siglip2ImageProcessor", patch_size=14, max_num_patches=16)
    theirs = transformers.Siglip2ImageProcessorPil.from_pretrained(folder)(image_of((80, 80)), return_tensors="pt")
    pixels = process_images([image_of((80, 80))], load_image_processor(folder), None)
    rows = pixels.unflatten(3, (4, 14)).unflatten(2, (4, 14)).permute(0, 2, 4, 3, 5, 1).reshape(1, 16, -1)
    torch.testing.assert_close(rows, theirs["pixel_values"])
    assert theirs["spatial_shapes"].tolist() == [[4, 4]]


def test_dinov3_resizes_what_it_has_rescaled(tmp_path):
    """torchvision's order and its filter, which transformers uses here; no rounding to bytes in between."""
    image = image_of((90, 60))
    processor = load_image_processor(written(tmp_path, "DINOv3ViTImageProcessorFast", size=SQUARE))
    scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    resized = torch.nn.functional.interpolate(scaled, (56, 56), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    torch.testing.assert_close(process_images([image], processor, None), (resized - mean) / std)
    processor.save_pretrained(tmp_path)
    named = json.loads((tmp_path / "preprocessor_config.json").read_text())["image_processor_type"]
    assert named == "DINOv3ViTImageProcessor"


@pytest.mark.parametrize("mode", ["resize", "anyres", "keep"])
@pytest.mark.parametrize("kind", ["convnext", "dinov2", "dinov3_vit", "siglip_vision_model"])
def test_an_image_that_has_its_size_keeps_its_border(tmp_path, kind, mode):
    """Processors that crop are not asked to crop tiles."""
    name = FAMILIES[kind].image_processor
    size: dict[str, int] = (
        SQUARE if name in ("SiglipImageProcessor", "DINOv3ViTImageProcessor") else {"shortest_edge": 64}
    )
    processor = load_image_processor(written(tmp_path, name, size=size, crop_size=56))
    edge = processed_edge(processor)
    canvas = Image.new("RGB", (4 * edge, 4 * edge), "black")
    canvas.paste(Image.new("RGB", (2 * edge, 4 * edge), "white"))
    bordered = canvas.transpose(Image.Transpose.ROTATE_90)
    config = SimpleNamespace(image_aspect_ratio=mode, image_grid_pinpoints=[[2 * edge, 2 * edge]])
    pixels = process_images([bordered], processor, config)[0]
    whole = pixels[0] if mode == "anyres" else pixels
    bright = (whole[0] > whole[0].mean()).float().mean()
    assert abs(bright - 0.5) < 0.02
    assert whole.shape[1:] == ((224, 224) if mode == "keep" else (edge, edge))
