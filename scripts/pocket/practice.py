"""What the language model practises on: short conversations about a scene, a photograph, or nothing.

Most are one question, because what a small model learns last is to look up in a picture what a question names, and a
later answer can often be read off an earlier one instead.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.pocket import fashion, records, scene_questions, scenes
from scripts.pocket.questions import Question

FIRST_SCENE, LAST_SCENE = 5_000_000, 2**40
"""Seeds of scenes that are only described here, never drawn. The few that are drawn elsewhere lie below, or are missed
by chance: a language model that has seen no picture learns nothing about one."""
PHOTOGRAPHS, SMALL_TALK = 0.08, 0.01
"""Shares of the conversations that are about a photograph, and about nothing."""
PICTURE_FIRST = 0.35
"""Share of those about a picture in which it comes before the question; LLaVA v0 puts it behind."""
ANOTHER = 0.12
"""How often one more question follows."""
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
"""How often each kind of question about a scene comes, compared with the others."""


@dataclass(frozen=True)
class Turn:
    asked: str
    answer: str
    question: Question | None = None
    """What was made into the two texts; of a scene's only."""


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...]
    shown: scenes.Scene | str | None = None
    """A scene, or the class of a photograph."""
    picture_first: bool = False


def conversation(rng: random.Random, most_objects: int = scenes.MOST_OBJECTS) -> Conversation:
    """One conversation; scenes hold `most_objects` things at most."""
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
    """One question, or two of which the second refers to the first."""
    while True:
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == SECOND_TURN:
            return [Turn(*question.turn(rng), question) for question in scene_questions.follow_up(scene, rng)]
        question = scene_questions.ASKERS[kind][0](scene, rng)
        if question is not None:
            return [Turn(*question.turn(rng), question)]
