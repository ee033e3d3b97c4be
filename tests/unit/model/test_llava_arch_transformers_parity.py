"""transformers' own LLaVA and LLaVA-NeXT on the same weights give the same logits; folders in its format load."""

from __future__ import annotations

import pytest
import torch
from transformers import LlavaConfig as NestedConfig
from transformers import LlavaForConditionalGeneration

from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import process_images
from llava.model.builder import load_pretrained_model
from tests.support.checkpoints import (
    VOCABULARY,
    randomise,
    small_llava,
    small_tower,
    text_config,
    vision_config,
    write_nested,
)

TEXT = [1, 30, 40, 50]
# float32, the same operations in the same order but for the splice.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def ids_for(num_features: int, patch: int, marker: int = IMAGE_TOKEN_INDEX):
    """The same prompt in our form (one marker) and in transformers' (one id a feature)."""
    ours = torch.tensor([[*TEXT, marker, 60, 70]])
    theirs = torch.tensor([[*TEXT, *[patch] * num_features, 60, 70]])
    return ours, theirs


@pytest.mark.parametrize(("strategy", "num_features"), [("default", 16), ("full", 17)])
def test_loaded_folder_in_transformers_format_gives_its_logits(tmp_path, strategy, num_features):
    theirs = write_nested(tmp_path, strategy=strategy)
    _, ours, _, context = load_pretrained_model(tmp_path, device="cpu", dtype="float32")
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    our_ids, their_ids = ids_for(num_features, VOCABULARY - 1)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(input_ids=our_ids, images=pixels).logits,
            theirs(input_ids=their_ids, pixel_values=pixels).logits,
            **CLOSE,
        )
    assert context == 4096


def test_linear_projector_gives_the_logits_of_transformers(tmp_path):
    ours = small_llava(small_tower(tmp_path / "tower"))
    config = NestedConfig(
        text_config=text_config(),
        vision_config=vision_config(),
        image_token_index=VOCABULARY - 1,
        image_seq_length=16,
        projector_hidden_act="linear",
    )
    config.text_config.vocab_size = VOCABULARY + 4
    theirs = LlavaForConditionalGeneration(config).eval()
    randomise(theirs, seed=5)
    copy_into(theirs, ours)
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    our_ids, their_ids = ids_for(16, VOCABULARY - 1)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(input_ids=our_ids, images=pixels).logits,
            theirs(input_ids=their_ids, pixel_values=pixels).logits,
            **CLOSE,
        )


def copy_into(theirs, ours) -> None:
    theirs.model.language_model.load_state_dict(
        {k: v for k, v in ours.model.state_dict().items() if not k.startswith(("mm_projector", "vision_tower"))}
    )
    theirs.lm_head.load_state_dict(ours.lm_head.state_dict())
    projector, width = theirs.model.multi_modal_projector, ours.config.hidden_size
    projector.linear_1.load_state_dict(ours.model.mm_projector.state_dict())
    projector.linear_2.load_state_dict({"weight": torch.eye(width), "bias": torch.zeros(width)})
    own = ours.get_vision_tower()
    tower = {
        own.original_name(name).replace("vision_tower.vision_model.", ""): value
        for name, value in own.state_dict().items()
    }
    theirs.model.vision_tower.load_state_dict(tower)


@pytest.mark.parametrize("size", [(120, 40), (40, 120), (100, 90), (56, 56)])
def test_tiled_images_give_the_logits_of_llava_next(tmp_path, size):
    from PIL import Image

    theirs = write_nested(tmp_path, tiles=True)
    _, ours, image_processor, _ = load_pretrained_model(tmp_path, device="cpu", dtype="float32")
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    pixels = process_images([image], image_processor, ours.config)
    with torch.no_grad():
        num_features = len(ours.encode_images(pixels, [size])[0])
        assert ours.count_features(pixels, [size]) == [num_features]
        our_ids, their_ids = ids_for(num_features, VOCABULARY - 1)
        torch.testing.assert_close(
            ours(input_ids=our_ids, images=pixels, image_sizes=[size]).logits,
            theirs(input_ids=their_ids, pixel_values=pixels, image_sizes=torch.tensor([[size[1], size[0]]])).logits,
            **CLOSE,
        )
