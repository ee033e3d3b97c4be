"""Drills: many questions about one picture in a line of a few words each, "star colour: red small size: large".

To look up in a picture what a question names is the hardest thing for a small model to learn, and it takes many tries.
A line holds ten of them in the room of two questions in sentences. What is learnt is the answers.
"""

from __future__ import annotations

import random

from scripts.pocket import scenes
from scripts.pocket.scene_questions import SIDES, name, references

LONGEST = 10
"""Questions in a line."""
Line = list[tuple[str, str]]
"""What is asked and the answer, one after another."""


def drill(scene: scenes.Scene, rng: random.Random, *, is_hard: bool = False) -> Line:
    """Questions about a scene, each with one right answer and none twice.

    Args:
        is_hard: objects are named by two properties, too, "small star", "red object", "object at the top left".
    """
    asked = dict(_of_attributes(scene, rng, is_hard))
    asked.update(_of_all(scene, rng))
    asked.update(_of_sides(scene))
    lines = list(asked.items())
    rng.shuffle(lines)
    return lines[:LONGEST]


def _of_attributes(scene: scenes.Scene, rng: random.Random, is_hard: bool) -> Line:
    """`star colour: red` and `star red? no`."""
    lines = []
    for item in scene.objects:
        said = {"kind": name(item), "colour": item.colour, "size": item.size, "position": item.position}
        for attribute, answer in said.items():
            keys = [said[other] for other in said if other != attribute and _is_alone(scene, item, other)]
            if not keys:
                continue
            if is_hard and rng.random() < 0.5:
                keys = [text.removeprefix("the ") for text in references(scene, item, attribute)]
            key = said["kind"] if said["kind"] in keys and rng.random() < 0.5 else rng.choice(keys)
            lines.append((f"{key} {attribute}:", answer))
            if attribute in ("colour", "size"):
                values = list(scenes.COLOURS) if attribute == "colour" else list(scenes.SIZES)
                value = answer if rng.random() < 0.5 else rng.choice(values)
                lines.append((f"{key} {value}?", "yes" if value == answer else "no"))
    return rng.sample(lines, min(len(lines), LONGEST - 3))


def _is_alone(scene: scenes.Scene, item: scenes.Object, attribute: str) -> bool:
    """Whether no other object has its kind, colour, size or place."""
    return [getattr(other, attribute) for other in scene.objects].count(getattr(item, attribute)) == 1


def _of_all(scene: scenes.Scene, rng: random.Random) -> Line:
    """`red star? yes`, `blue: none`, `background: white`."""
    shown = {(item.colour, name(item)) for item in scene.objects}
    colours, names = ([pair[place] for pair in sorted(shown)] for place in (0, 1))
    colour, thing = rng.choice(sorted(shown))
    if rng.random() < 0.5:
        colour = rng.choice(colours if rng.random() < 0.5 else list(scenes.COLOURS))
        thing = rng.choice(names)
    counted = rng.choice(colours if rng.random() < 0.7 else list(scenes.COLOURS))
    found = [name(item) for item in scene.objects if item.colour == counted]
    return [
        (f"{colour} {thing}?", "yes" if (colour, thing) in shown else "no"),
        (f"{counted}:", " ".join(found) or "none"),
        ("background:", scene.background),
    ]


def _of_sides(scene: scenes.Scene) -> Line:
    """`above star: circle`, where a single object lies on that side."""
    lines = []
    for item in scene.objects:
        for side, lies_there in SIDES.items():
            there = [other for other in scene.objects if lies_there(other, item)]
            if len(there) == 1 and _is_alone(scene, item, "kind"):
                lines.append((f"{side} {name(item)}:", name(there[0])))
    return lines
