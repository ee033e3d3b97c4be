"""Generates the conversations that the language model practises on: about a scene, a photograph, or neither.

Most have one question: looking up in an image what a question names is what a small model learns last, and a later
answer can often be read from an earlier one instead.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.pocket import fashion, records, scene_questions, scenes
from scripts.pocket.questions import Question

FIRST_SCENE, LAST_SCENE = 5_000_000, 2**40
"""Range of seeds of scenes that are only described here. A few may also be drawn elsewhere, which does no harm: a
language model that never sees an image learns nothing about it."""
PHOTOGRAPHS, SMALL_TALK = 0.08, 0.01
"""Fractions of the conversations about a photograph, and about neither scene nor photograph."""
PICTURE_FIRST = 0.35
"""Fraction of conversations with the image before the question; LLaVA v0 puts it after the question."""
ANOTHER = 0.12
"""Probability that another question follows."""
MOST_TURNS = 3
SECOND_TURN = "second turn"
SHARES = {
    "shape": 0.5,
    "character": 0.7,
    "colour": 1.2,
    "size": 1.5,
    "position": 1.5,
    "count": 2.4,
    "what is there": 0.8,
    "relation": 1.0,
    "is there": 2.2,
    "is it": 2.2,
    "is it beside": 3.0,
    "background": 0.2,
    "what is in it": 0.5,
    "description": 0.8,
    "can't tell": 1.6,
    "drawing or photograph": 0.1,
    SECOND_TURN: 0.8,
}
"""Relative frequency of each kind of question about a scene."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    asked: str
    answer: str
    question: Question | None = None
    """The question that both texts come from; None unless it is about a scene."""


@dataclass(frozen=True)
class Conversation:
    """One conversation."""

    turns: tuple[Turn, ...]
    shown: scenes.Scene | str | None = None
    """The scene or the class of the photograph; None for small talk."""
    picture_first: bool = False


def conversation(rng: random.Random, most_objects: int = scenes.MOST_OBJECTS) -> Conversation:
    """Generates a conversation; a scene has at most `most_objects` objects."""
    choice, picture_first = rng.random(), rng.random() < PICTURE_FIRST
    if choice < PHOTOGRAPHS:
        clothing = rng.choice(fashion.CLASSES)
        turns = records.exercise("photograph", clothing, rng, of_all_kinds=True)
        return Conversation(tuple(Turn(*texts) for texts in turns), clothing, picture_first)
    if choice < PHOTOGRAPHS + SMALL_TALK:
        return Conversation((Turn(*rng.choice(records.SMALL_TALK)),))
    scene = _scene(rng, most_objects)
    turns_about = _about(scene, rng)
    while rng.random() < ANOTHER and len(turns_about) < MOST_TURNS:
        more = _about(scene, rng)
        if len(more) == 1 and more[0].asked not in [turn.asked for turn in turns_about]:
            turns_about += more
    return Conversation(tuple(turns_about), scene, picture_first)


def _scene(rng: random.Random, most_objects: int) -> scenes.Scene:
    while True:
        scene = scenes.sample(rng.randrange(FIRST_SCENE, LAST_SCENE))
        if len(scene.objects) <= most_objects:
            return scene


def _about(scene: scenes.Scene, rng: random.Random) -> list[Turn]:
    """Returns one question, or two of which the second refers to the first."""
    while True:
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == SECOND_TURN:
            return [Turn(*question.turn(rng), question) for question in scene_questions.follow_up(scene, rng)]
        question = scene_questions.ASKERS[kind][0](scene, rng)
        if question is not None:
            return [Turn(*question.turn(rng), question)]
