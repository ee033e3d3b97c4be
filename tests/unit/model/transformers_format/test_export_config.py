"""An export says what transformers' classes compute, or is refused."""

from __future__ import annotations

import pytest

from llava.command_line import run
from llava.model import convert
from tests.support.checkpoints import GRID, copy_tokenizer, small_llava, write_preprocessor
from tests.support.towers import write_tower

VIP = {"mm_projector_type": "norm_mlp2x_gelu"}
TILES = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": GRID, "mm_patch_merge_type": "spatial_unpad"}


@pytest.mark.parametrize(
    ("kind", "settings", "image_size", "message"),
    [
        ("siglip_vision_model", VIP, 56, "ViP-LLaVA drops the first feature of each image"),
        (
            "clip_vision_model",
            {**VIP, "mm_vision_select_feature": "cls_patch"},
            56,
            "ViP-LLaVA drops the first feature",
        ),
        ("clip_vision_model", {**VIP, **TILES}, 56, "transformers has this projector only in ViP-LLaVA"),
        ("clip_vision_model", {}, 70, "makes images of 70 pixels and the tower's config says 56"),
        ("dinov2", TILES, 70, "makes images of 70 pixels and the tower's config says 56"),
        ("dinov2", {}, 70, None),
        ("vit", {}, 56, None),
    ],
)
def test_what_transformers_would_compute_otherwise_is_refused(tmp_path, capsys, kind, settings, image_size, message):
    tower = tmp_path / "tower"
    write_tower(tower, kind)
    write_preprocessor(tower, image_size)
    settings = {"mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False, **settings}
    folder = tmp_path / "llava"
    small_llava(tower, **settings).save_pretrained(folder)
    copy_tokenizer(folder)
    words = ["--model-path", str(folder), "--output", str(tmp_path / "export"), "--conv-mode", "vicuna_v1", "--quiet"]
    code = run(convert.add_arguments, convert.main, argv=words)
    said = capsys.readouterr().err
    assert code == (message is not None), said
    assert (message or "") in said
