"""The example set for GPT review, and the rules: whole, and as their script makes them."""

from __future__ import annotations

import itertools
import json

import pytest
from PIL import Image

from llava.eval.data.records import EVAL_FOLDER, REPOSITORY, read_answers, read_questions
from llava.eval.reviews.prompts import ReviewKind, read_review_set
from scripts import review_example
from scripts.pocket import scenes
from scripts.pocket.patches import HELD_OUT_SEED

FOLDER = REPOSITORY / "playground" / "data" / "example_review"


def test_every_question_has_an_image_a_context_and_two_answers():
    reviews = read_review_set(
        ReviewKind("boxes"),
        question=str(FOLDER / "questions.jsonl"),
        answers=(str(FOLDER / "reference_answers.jsonl"), str(FOLDER / "answers_tiny.jsonl")),
        rule=str(EVAL_FOLDER / "table" / "rule.json"),
        context=str(FOLDER / "captions_boxes.jsonl"),
    )
    assert (len(reviews.prompts), reviews.notes) == (60, ())
    for prompt in reviews.prompts:
        with Image.open(FOLDER / "images" / prompt.image) as image:
            assert image.size == (264, 264)
    assert {prompt.answers[1].model for prompt in reviews.prompts} == {"tiny"}


def test_boxes_are_inside_their_images():
    for line in read_answers(FOLDER / "captions_boxes.jsonl", key="image").lines.values():
        assert len(line.record["captions"]) == 5
        for box in line.record["instances"]:
            left, top, right, bottom = box["bbox"]
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1


@pytest.mark.parametrize("number", range(1, review_example.NUM_SCENES + 1))
def test_what_is_said_about_a_scene_follows_from_the_scene(number):
    several = (scene for scene in map(scenes.sample, itertools.count(HELD_OUT_SEED)) if len(scene.objects) > 1)
    scene = next(itertools.islice(several, number - 1, None))
    context = read_answers(FOLDER / "captions_boxes.jsonl", key="image").lines[f"scene{number}.png"].record
    assert context["captions"] == review_example.scene_captions(scene)
    answers = read_answers(FOLDER / "reference_answers.jsonl")
    asked = [
        (line.record["category"], line.record["text"], answers.text(identity, "text"))
        for identity, line in read_questions(FOLDER / "questions.jsonl").lines.items()
        if line.record["image"] == f"scene{number}.png"
    ]
    assert asked == review_example.scene_questions(scene)


def test_the_rules_cover_every_category_of_the_original():
    rules = json.loads((EVAL_FOLDER / "table" / "rule.json").read_text())
    kinds = {"conv", "detail", "complex"}
    assert {"coding", "math", "default", *kinds, *(f"llava_bench_{kind}" for kind in kinds)} <= set(rules)
