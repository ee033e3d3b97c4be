"""Asks questions about the photographs of clothing."""

from __future__ import annotations

import random
from collections.abc import Callable

from scripts.pocket import fashion, questions, scenes
from scripts.pocket.questions import Question, with_article
from scripts.pocket.scene_questions import DESCRIBE, WHAT_IS_IT, kind_name

SHOES = ("sandal", "sneaker", "boot")
NOT_SHOWN = ("dog", "car", "tree", "person", "house", "face", "hat", "cup")


def phrase(clothing: str) -> str:
    """Returns the noun with its article, such as `a coat` or `a pair of trousers`."""
    return "a pair of trousers" if clothing == "trousers" else with_article(clothing)


def group(clothing: str) -> str:
    """Returns `shoe`, `bag` or `clothing`."""
    if clothing == "bag":
        return "bag"
    return "shoe" if clothing in SHOES else "clothing"


def ask_what(clothing: str, rng: random.Random) -> Question:
    if rng.random() < 0.6:
        text, sentence = rng.choice(WHAT_IS_IT), f"A photograph of {phrase(clothing)}."
    else:
        text = rng.choice(("What kind of clothing is this?", "What thing is this?", "What is in the photograph?"))
        sentence = f"It is {phrase(clothing)}."
    return Question("clothing", text, clothing, sentence, "clothing")


def ask_is_this(clothing: str, rng: random.Random) -> Question:
    yes = rng.random() < 0.5
    asked = clothing if yes else rng.choice([c for c in fashion.CLASSES if c != clothing])
    form = rng.choice(("Is this {}?", "Is it {}?", "Do you see {}?"))
    return questions.yes_or_no(
        "is this clothing", form.format(phrase(asked)), yes, f"it is {phrase(clothing)}", clothing
    )


def ask_is_shoe(clothing: str, rng: random.Random) -> Question:
    text = rng.choice(("Is this a shoe?", "Is it a shoe?", "Is it worn on the feet?"))
    return questions.yes_or_no("is this a shoe", text, clothing in SHOES, f"it is {phrase(clothing)}", clothing)


def ask_group(clothing: str, rng: random.Random) -> Question:
    answer = group(clothing)
    text = rng.choice(("Is it clothing, a shoe or a bag?", "Is this a shoe, a bag or clothing?"))
    sentence = "It is clothing." if answer == "clothing" else f"It is a {answer}."
    return Question("clothing, shoe or bag", text, answer, sentence, "group")


def ask_describe(clothing: str, rng: random.Random) -> Question:
    sentence = f"A black and white photograph of {phrase(clothing)}. The background is black."
    return Question("photograph described", rng.choice(DESCRIBE), "", sentence, "clothing")


def ask_cannot_tell(clothing: str, rng: random.Random) -> Question:
    choice = rng.random()
    if choice < 0.35:
        text = rng.choice(("What colour is it?", "What color is it?", f"What colour is the {clothing}?"))
        sentence = "I can't tell: the photograph is black and white."
        return Question("can't tell", text, "I can't tell", sentence, "cannot tell")
    if choice < 0.6:
        return questions.unanswerable(rng)
    noun = rng.choice(NOT_SHOWN) if rng.random() < 0.3 else kind_name(rng.choice(scenes.KINDS))
    return questions.absent(
        rng.choice(("What colour is the {}?", "Where is the {}?", "What size is the {}?")).format(noun), noun
    )


def ask_exists(clothing: str, rng: random.Random) -> Question:
    """Asks about objects of the scenes and other things, which a photograph never shows."""
    noun = rng.choice(NOT_SHOWN) if rng.random() < 0.4 else kind_name(rng.choice(scenes.KINDS))
    text = rng.choice(("Is there {}?", "Do you see {}?")).format(with_article(noun))
    fact = f"there is {phrase(clothing)}"
    return questions.yes_or_no("is there, in a photograph", text, False, fact, clothing)


def ask_background(clothing: str, rng: random.Random) -> Question:
    return Question("background", "What colour is the background?", "black", "The background is black.", "colour")


def ask_medium(clothing: str, rng: random.Random) -> Question:
    return questions.medium(rng, "photograph")


Asker = Callable[[str, random.Random], Question]
ASKERS: dict[str, tuple[Asker, float]] = {
    "clothing": (ask_what, 3.0),
    "is this clothing": (ask_is_this, 1.5),
    "is this a shoe": (ask_is_shoe, 0.6),
    "clothing, shoe or bag": (ask_group, 0.6),
    "photograph described": (ask_describe, 0.6),
    "can't tell": (ask_cannot_tell, 0.9),
    "is there, in a photograph": (ask_exists, 0.5),
    "background": (ask_background, 0.15),
    "drawing or photograph": (ask_medium, 0.4),
}
"""Function and relative frequency of each kind of question."""
COMPARING = {
    "is this clothing": 4.0,
    "clothing": 1.5,
    "is there, in a photograph": 0.8,
    "is this a shoe": 0.5,
    "can't tell": 0.5,
}
"""Relative frequency of each kind of question in exercises."""
