"""The embedded model, as it is shipped: found by name, small, and right about the example images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava import pocket
from llava.errors import InvalidRequest
from llava.model.weights.reader import open_checkpoint
from tests.support.towers import clip_names_of_release_4_37

IMAGES = Path(__file__).parents[3] / "playground" / "images"


@pytest.fixture(scope="module")
def ask():
    """A function from image, question to the greedy answer."""
    from llava.engine import Engine, Request, Sampling
    from llava.mm_utils import load_image
    from llava.model.builder import load_pretrained_model
    from llava.prompting import build_prompt

    tokenizer, model, image_processor, context_length = load_pretrained_model(str(pocket.find("tiny")))
    with Engine(model, tokenizer, image_processor, context_length) as engine:

        def asked(name: str, question: str) -> str:
            prompt = build_prompt(model.config, question, 1)
            sampling = Sampling(temperature=0, max_new_tokens=80)
            image = load_image(str(IMAGES / name))
            request = Request(prompt.text, (image,), sampling, stop=(prompt.stop,), prefixes=prompt.roles)
            return engine.generate([request])[0].text

        yield asked


def test_it_is_found_by_name_and_by_default():
    assert "tiny" in pocket.names()
    assert pocket.find() == pocket.find("tiny")
    with pytest.raises(InvalidRequest, match="tiny"):
        pocket.find("huge")


def test_it_stays_small_and_names_nothing_outside_its_folder():
    folder = pocket.find("tiny")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 40_000_000
    config = json.loads((folder / "config.json").read_text())
    assert config["mm_vision_tower"] == "vision_tower"
    assert config["mm_vision_select_layer"] == -2
    assert config["mm_use_im_start_end"] is True


def test_releases_of_transformers_from_4_37_on_find_every_tensor_of_its_tower():
    tower = pocket.find("tiny") / "vision_tower"
    num_layers = json.loads((tower / "config.json").read_text())["num_hidden_layers"]
    assert set(open_checkpoint(tower)) == clip_names_of_release_4_37(num_layers)


def test_it_knows_the_photograph(ask):
    assert "sneaker" in ask("sneaker.png", "What is in the picture?")


def test_it_answers_in_one_word_when_asked_to(ask):
    assert ask("sneaker.png", "What is in the picture? Answer with one word.") == "sneaker"


def test_it_describes_the_scene(ask):
    """The scene holds a purple 5, a black square and a white 5, on blue."""
    text = ask("scene.png", "Describe the picture.")
    for words in ("purple number 5", "black square", "white number 5", "background is blue"):
        assert words in text


def test_it_tells_a_drawing_from_a_photograph(ask):
    assert "drawing" in ask("scene.png", "Is this a drawing or a photograph?")
    assert "photograph" in ask("sneaker.png", "Is this a drawing or a photograph?")


def test_it_says_that_it_cannot_tell_the_colour_of_a_thing_that_is_not_there(ask):
    assert "can't tell" in ask("sneaker.png", "What colour is the star?")
