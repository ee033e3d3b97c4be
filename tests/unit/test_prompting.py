"""Where images go in a question, and which template asks it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llava.errors import ImageTokenMismatch, UnknownTemplate
from llava.model.loading.model_folder import read_model_folder
from llava.prompting import build_prompt, place_images
from tests.support.checkpoints import DATA


@pytest.mark.parametrize(
    ("question", "num_images", "first", "expected"),
    [
        ("Why?", 1, True, "<image>\nWhy?"),
        ("Why?", 1, False, "Why?\n<image>"),
        ("Why?", 2, True, "<image>\n<image>\nWhy?"),
        ("Why?", 0, True, "Why?"),
        ("Is <image> like <image-placeholder>?", 2, True, "Is <image> like <image>?"),
    ],
)
def test_images_go_where_the_question_or_the_generation_says(question, num_images, first, expected):
    assert place_images(question, num_images, first=first) == expected


def test_wrong_number_of_markers_in_the_question_is_an_error():
    with pytest.raises(ImageTokenMismatch, match="has 1 <image> markers, but 2 images"):
        place_images("<image> Why?", 2, first=True)


def test_unknown_template_is_an_error_that_offers_the_nearest():
    config = read_model_folder(DATA / "llava-v0-tiny").config()
    with pytest.raises(UnknownTemplate, match="multimodal"):
        build_prompt(config, "Why?", 1, conv_mode="multimodel")


def test_simple_legacy_ends_a_question_as_v0s_evaluators_do():
    """Behind the image, which v0 puts behind the question."""
    config = SimpleNamespace(mm_vision_tower="x", use_mm_proj=True)
    text = build_prompt(config, "What is it?", 1, conv_mode="simple_legacy").text
    assert text.endswith("###Human: What is it?\n<image>\n\n### Response:###")
