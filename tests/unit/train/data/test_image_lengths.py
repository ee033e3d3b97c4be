"""Lengths of images from their headers."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pillow_heif
import pytest
from PIL import Image

from llava.errors import DataError
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.train.data.dataset import ImageLoader, PositionCounter
from llava.train.data.image_lengths import ImageLengths
from tests.support.training import DATA


@pytest.fixture(scope="module")
def tower():
    return build_vision_tower(str(DATA / "clip-tiny"), select_layer=-2)


def loader(tower, folder, aspect: str) -> ImageLoader:
    config = SimpleNamespace(image_aspect_ratio=aspect, image_grid_pinpoints=[[224, 448], [448, 224]])
    return ImageLoader(folder, tower.image_processor, config, PositionCounter(tower))


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("aspect", ["square", "pad", "keep", "anyres", "anyres_max_2"])
def test_they_are_those_of_the_decoded_images(tower, tmp_path, aspect, num_images):
    """Oracle: the pixels that training makes of the same files, some of which are stored on their side."""
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.new("RGB", (400, 200)).save(tmp_path / "lying.jpg", exif=lying)
    Image.new("RGB", (400, 200)).save(tmp_path / "upright.jpg")
    Image.new("LA", (90, 130)).save(tmp_path / "grey.png")
    Image.new("RGB", (400, 200)).save(tmp_path / "lying.avif", exif=lying)
    pillow_heif.from_pillow(Image.new("RGB", (400, 200))).save(tmp_path / "lying.heic", exif=lying.tobytes())
    images = loader(tower, tmp_path, aspect)
    lengths = ImageLengths(images)
    for name in ("lying.jpg", "lying.avif", "lying.heic", "upright.jpg", "grey.png"):
        assert lengths("r", name, num_images) == images.num_positions(images.load("r", name, num_images)[0])


def test_what_cannot_be_measured_is_named_and_nothing_waits_or_breaks(tower, tmp_path):
    Image.new("RGB", (4000, 3)).save(tmp_path / "thin.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "empty.png").touch()
    lengths = ImageLengths(loader(tower, tmp_path, "keep"))
    for name in ("thin.png", "bomb.png", "pipe.png", "page.jpg", "empty.png", "none.png"):
        with pytest.raises(DataError, match=rf"^t\.json: record 1: cannot read image .*{name}: "):
            lengths("t.json: record 1", name)
