"""Writes the example set for GPT review: images, questions, captions, boxes and reference answers.

The set has six drawn scenes and four photographs of clothing, with three questions about each. All texts follow from
the facts of a scene or the class of a photograph, and are our own. Images are chosen by their position.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.files.json_files import write_jsonl
from scripts.pocket import fashion, scenes
from scripts.pocket.folders import add_fashion, add_out, add_work
from scripts.pocket.patches import HELD_OUT_SEED
from scripts.pocket.photograph_questions import phrase
from scripts.pocket.questions import listed, with_article
from scripts.pocket.scene_questions import name, place
from scripts.pocket.scenes import SIDE, Object, Scene

NUM_SCENES = 6
SHOWN_SIDE = 264
NUMBERS = ("no", "one", "two", "three", "four")
PHOTOGRAPHS = ("boot", "dress", "bag", "trousers")
USES = {
    "boot": (
        "in which weather it would be worn",
        "In cold or wet weather: it covers the ankle and keeps the foot dry.",
    ),
    "dress": ("to which occasion one could wear it", "To a celebration or on a warm day: it is one piece of clothing."),
    "bag": ("what one would do with it", "Carry things in it: it has room inside and something to hold it by."),
    "trousers": ("on which part of the body it is worn", "On the legs: two long tubes of cloth hang from a waistband."),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_work(parser)
    add_fashion(parser)
    add_out(parser, "playground/data/example_review")


def main(args: argparse.Namespace) -> int:
    write_example(args.out, fashion.locate(args.work, args.fashion))
    return 0


def write_example(folder: Path, fashion_files: Path) -> None:
    """Writes the whole set to a folder."""
    contexts: list[dict[str, Any]] = []
    asked: list[tuple[str, str, str, str]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(chosen_scenes(), start=1):
        image = f"scene{number}.png"
        scenes.render(scene, SHOWN_SIDE).save(folder / "images" / image, optimize=True)
        contexts.append(context(image, scene_captions(scene), [(name(o), box(o)) for o in scene.objects]))
        asked += [(image, *question) for question in scene_questions(scene)]
    pixels, labels = fashion.read(fashion_files, "test")
    for clothing in PHOTOGRAPHS:
        image = f"{clothing}.png"
        photograph = pixels[list(labels).index(fashion.CLASSES.index(clothing))]
        fashion.picture(photograph, SHOWN_SIDE).convert("L").save(folder / "images" / image, optimize=True)
        contexts.append(context(image, photograph_captions(clothing), [(clothing, bright_box(photograph))]))
        asked += [(image, *question) for question in photograph_questions(clothing)]
    write_jsonl(folder / "captions_boxes.jsonl", contexts)
    write_questions(folder, asked)
    print(f"{len(contexts)} images, {len(asked)} questions in {folder}")


def write_questions(folder: Path, asked: list[tuple[str, str, str, str]]) -> None:
    """Writes questions and reference answers from image, category, question and answer."""
    questions, answers = [], []
    for number, (image, category, text, answer) in enumerate(asked):
        questions.append({"question_id": number, "image": image, "text": text, "category": category})
        answers.append({"question_id": number, "text": answer, "category": category})
    write_jsonl(folder / "questions.jsonl", questions)
    write_jsonl(folder / "reference_answers.jsonl", answers)


def chosen_scenes() -> Iterator[Scene]:
    """Yields the first held-out scenes with more than one object."""
    with_several = (scene for scene in map(scenes.sample, itertools.count(HELD_OUT_SEED)) if len(scene.objects) > 1)
    return itertools.islice(with_several, NUM_SCENES)


def context(image: str, captions: list[str], boxes: list[tuple[str, list[float]]]) -> dict[str, Any]:
    """Returns a record as in the original's context files."""
    instances = [{"category": category, "bbox": corners} for category, corners in boxes]
    return {"id": image.partition(".")[0], "image": image, "captions": captions, "instances": instances}


# Scenes


def described(item: Object) -> str:
    return f"{item.size} {item.colour} {name(item)}"


def box(item: Object) -> list[float]:
    """Returns left, top, right and bottom as fractions of the image."""
    corners = (item.x - item.radius, item.y - item.radius, item.x + item.radius, item.y + item.radius)
    return [round(min(max(corner / SIDE, 0.0), 1.0), 3) for corner in corners]


def scene_captions(scene: Scene) -> list[str]:
    colours = list(dict.fromkeys(item.colour for item in scene.objects))
    kinds = list(dict.fromkeys(name(item) for item in scene.objects))
    are = "All objects are" if len(colours) == 1 else "The objects are"
    return [
        f"A drawing of {NUMBERS[len(scene.objects)]} objects on a {scene.background} background.",
        f"It shows {contents(scene)}.",
        f"On {scene.background}: {listed(kinds)}.",
        f"{are} {listed(colours)}.",
        "Simple shapes or characters, nothing else.",
    ]


def contents(scene: Scene) -> str:
    return listed([f"{with_article(described(item))} {place(item.position)}" for item in scene.objects])


def scene_questions(scene: Scene) -> list[tuple[str, str, str]]:
    """Returns category, question and answer, one of each category."""
    first = scene.objects[0]
    return [
        (
            "conv",
            f"What is {place(first.position)}, and what colour is it?",
            f"It is {with_article(name(first))}, and it is {first.colour}.",
        ),
        (
            "detail",
            "Describe everything that the picture shows, with its place.",
            f"The picture is a drawing on a {scene.background} background. It shows {contents(scene)}.",
        ),
        (
            "complex",
            "If every object moved one column to the right, how many of them would leave the picture, and why?",
            outside_after_a_step(scene),
        ),
    ]


def outside_after_a_step(scene: Scene) -> str:
    right = [f"the {described(item)}" for item in scene.objects if item.column == 2]
    if not right:
        return "None of them, because nothing stands in the right column."
    stand = "stands" if len(right) == 1 else "stand"
    count = "All" if len(right) == len(scene.objects) else NUMBERS[len(right)].capitalize()
    return f"{count} of them, because {listed(right)} {stand} in the right column already."


# Photographs


def bright_box(pixels: Any) -> list[float]:
    """Returns the box around everything that is not background."""
    rows, columns = (pixels > 16).nonzero()
    side = pixels.shape[0]
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return [round(float(corner) / side, 3) for corner in corners]


def photograph_captions(clothing: str) -> list[str]:
    return [
        f"A black and white photograph of {phrase(clothing)}.",
        f"{phrase(clothing).capitalize()} in front of a black background.",
        f"It shows {phrase(clothing)}, as in a catalogue.",
        "One thing to wear or to carry, nothing else.",
        "The photograph is small and has no colours.",
    ]


def photograph_questions(clothing: str) -> list[tuple[str, str, str]]:
    asked, answer = USES[clothing]
    return [
        ("conv", "What is in the photograph?", f"It is {phrase(clothing)}."),
        ("detail", "Describe the photograph.", f"{photograph_captions(clothing)[0]} Everything around it is black."),
        ("complex", f"Explain {asked}, and what in the photograph tells you.", answer),
    ]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
