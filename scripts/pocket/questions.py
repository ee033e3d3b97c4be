"""Defines a question about an image, and decides whether a reply to it is correct.

A reply is correct if, among the words that could answer the question, it has exactly the right ones: "The star is red."
answers "red"; "The star is red or blue." does not.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from scripts.pocket import fashion, scenes

NUMBERS = ("zero", "one", "two", "three", "four")
CANNOT_TELL = "can't tell"


def _words(*words: str) -> re.Pattern[str]:
    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<![\w-])(?:{longest_first})(?![\w-])", re.IGNORECASE)


_NAMED_CHARACTERS = r"letter [A-Z]\b|number \d\b"
_PLACES = ("top", "bottom", "left", "right", "middle", "centre")
_DESCRIBING = (*scenes.COLOURS, *scenes.SHAPES, *scenes.SIZES, "grey", *_PLACES)
DOMAINS = {
    "shape": _words(*scenes.SHAPES),
    "character": re.compile(r"\b[A-Z0-9]\b"),
    "colour": _words(*scenes.COLOURS, "grey"),
    "size": _words(*scenes.SIZES),
    "position": _words(*_PLACES),
    "number": _words(*NUMBERS, "no"),
    "yes or no": _words("yes", "no"),
    "clothing": _words(*fashion.CLASSES),
    "group": _words("clothing", "shoe", "bag"),
    "medium": _words("drawing", "photograph"),
    "object": re.compile(rf"{_NAMED_CHARACTERS}|{_words(*scenes.COLOURS, *scenes.SHAPES, 'nothing').pattern}"),
    "description": re.compile(f"{_NAMED_CHARACTERS}|{_words(*_DESCRIBING).pattern}"),
    "cannot tell": re.compile(CANNOT_TELL, re.IGNORECASE),
}
"""Pattern of the words that could answer a question, by what the question asks for."""
ORDERED = {"object", "description"}
"""Domains in which the order of words matters: "a red star and a blue ring" is not "a blue star and a red ring"."""

BRIEFLY = ("Answer briefly.", "Short answer.", "Answer in a few words.")
ONE_WORD = ("Answer with one word.", "Answer in one word.")


NOWHERE = -1
"""Replaces a cell if the named object is not in the image."""


@dataclass(frozen=True)
class Mention:
    """An object that an answer mentions or judges."""

    cell: int
    """Cell of the object, 0 to 8 in reading order, or NOWHERE."""
    words: str = ""
    """The last words of the answer about the object; empty if the answer is about nothing else."""
    called: str = ""
    """The words of the question that name the object; empty if there are none."""
    named: int | None = None
    """Cell of the object that the question names, if the answer is about a different one."""


@dataclass(frozen=True)
class Question:
    """A question about an image, with its only correct answer in two or three forms."""

    kind: str
    """Name of the kind of question in the table of results."""
    text: str
    short: str
    """The answer in as few words as possible; empty if it needs a sentence."""
    sentence: str
    domain: str
    """Key of DOMAINS."""
    brief: str = ""
    """The answer with the fact that it rests on, in a few words; empty if `short` says as much."""
    about: tuple[Mention, ...] = ()
    """The objects that the answer mentions, in its order."""

    @property
    def key(self) -> list[str]:
        """The right words, which all forms of the answer must contain."""
        return found(self.domain, self.sentence)

    def right(self, reply: str) -> bool:
        """Tells whether a reply has exactly the right words."""
        if self.domain != "cannot tell" and CANNOT_TELL in reply.lower():
            return False
        return found(self.domain, reply) == self.key

    def turn(self, rng: random.Random) -> tuple[str, str]:
        """Returns the question, with or without a request for a short answer, and the answer in that form."""
        if not self.short or rng.random() < 0.55:
            return self.text, self.sentence
        wishes: tuple[str, ...] = BRIEFLY if " " in self.short else (*ONE_WORD, *BRIEFLY)
        answer = self.short
        if self.brief:
            wishes, answer = rng.choice(((BRIEFLY, self.brief), (ONE_WORD, self.short)))
        return f"{self.text} {rng.choice(wishes)}", answer


def yes_or_no(kind: str, text: str, yes: bool, fact: str, brief: str, about: tuple[Mention, ...] = ()) -> Question:
    """Makes a question whose answer is yes or no.

    The answer states its reason first, because a small model compares a question with its own words far better than
    with what it sees.
    """
    answer = "yes" if yes else "no"
    return Question(kind, text, answer, f"{capital(fact)}, so {answer}.", "yes or no", f"{brief}, so {answer}", about)


def found(domain: str, text: str) -> list[str]:
    """Returns the words of a text that could answer, in order or, if order does not matter, sorted and unique."""
    words = [match if domain == "character" else match.lower() for match in DOMAINS[domain].findall(text)]
    if domain == "number":
        words = ["zero" if word == "no" else word for word in words]
    return words if domain in ORDERED else sorted(set(words))


def capital(text: str) -> str:
    """Returns the text with a capital letter."""
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    """Adds the article, as in `a star` or `an orange star`."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def listed(parts: list[str]) -> str:
    """Joins the parts, as in `x`, `x and y`, or `x, y and z`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


UNANSWERABLE = (
    "Who made this picture?",
    "Who took this picture?",
    "When was this picture made?",
    "Where was this picture made?",
    "How much does it cost?",
    "What is the name of the artist?",
    "How old is it?",
    "What does it smell like?",
    "Who does it belong to?",
    "What is behind the camera?",
    "How heavy is it?",
    "What happened before?",
)


def unanswerable(rng: random.Random) -> Question:
    """Makes a question that no image answers."""
    return Question(
        "can't tell", rng.choice(UNANSWERABLE), "I can't tell", "I can't tell from the picture.", "cannot tell"
    )


def absent(text: str, noun: str) -> Question:
    """Makes a question about an object that the image does not show."""
    sentence, about = f"I can't tell: there is no {noun} in the picture.", (Mention(NOWHERE, called=noun),)
    return Question("can't tell", text, "I can't tell", sentence, "cannot tell", about=about)


def medium(rng: random.Random, answer: str) -> Question:
    """Asks whether the image is a drawing or a photograph."""
    text, sentence = rng.choice(
        (
            ("Is this a drawing or a photograph?", f"It is a {answer}."),
            ("What kind of picture is this?", f"This is a {answer}."),
            ("Is it a photograph or a drawing?", f"It is a {answer}."),
        )
    )
    return Question("drawing or photograph", text, answer, sentence, "medium")
