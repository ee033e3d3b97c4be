"""What a question about a picture is, and when a reply to it counts as right.

A reply is right if, of the words that could answer the question, it holds exactly the right ones: "The star is red."
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
"""The words that could answer a question, by what it asks for."""
ORDERED = {"object", "description"}
"""Here the order of the words counts too: "a red star and a blue ring" is not "a blue star and a red ring"."""

BRIEFLY = ("Answer briefly.", "Short answer.", "Answer in a few words.")
ONE_WORD = ("Answer with one word.", "Answer in one word.")


NOWHERE = -1
"""In place of a cell: nothing in the picture is what was named."""


@dataclass(frozen=True)
class Mention:
    """One thing that an answer speaks of, or of which it gives a verdict."""

    cell: int
    """Where it is: 0 to 8 in reading order, or NOWHERE."""
    words: str = ""
    """With these the answer has done with it; empty where it speaks of nothing else."""
    called: str = ""
    """The words of the question that lead there; empty where none do."""
    named: int | None = None
    """The cell of the thing that the question names, where the answer speaks of another."""


@dataclass(frozen=True)
class Question:
    """One question about one picture, with its only right answer in two or three forms."""

    kind: str
    """What the table of results calls it."""
    text: str
    short: str
    """The answer in as few words as possible; empty where only a sentence will do."""
    sentence: str
    domain: str
    """Key of DOMAINS."""
    brief: str = ""
    """The answer in a few words that hold the fact it rests on; empty where `short` says as much."""
    about: tuple[Mention, ...] = ()
    """What the answer speaks of, in its order."""

    @property
    def key(self) -> list[str]:
        """The right words; all forms of the answer must agree on them."""
        return found(self.domain, self.sentence)

    def right(self, reply: str) -> bool:
        """Whether a reply holds exactly the right words."""
        if self.domain != "cannot tell" and CANNOT_TELL in reply.lower():
            return False
        return found(self.domain, reply) == self.key

    def turn(self, rng: random.Random) -> tuple[str, str]:
        """The question as it is put, asking for a short answer or not, and the answer in that form."""
        if not self.short or rng.random() < 0.55:
            return self.text, self.sentence
        wishes: tuple[str, ...] = BRIEFLY if " " in self.short else (*ONE_WORD, *BRIEFLY)
        answer = self.short
        if self.brief:
            wishes, answer = rng.choice(((BRIEFLY, self.brief), (ONE_WORD, self.short)))
        return f"{self.text} {rng.choice(wishes)}", answer


def yes_or_no(kind: str, text: str, yes: bool, fact: str, brief: str, about: tuple[Mention, ...] = ()) -> Question:
    """A question to be answered yes or no.

    The answer says what it rests on before it says yes or no: a small model compares what it has said with what it was
    asked far better than what it sees.
    """
    answer = "yes" if yes else "no"
    return Question(kind, text, answer, f"{capital(fact)}, so {answer}.", "yes or no", f"{brief}, so {answer}", about)


def found(domain: str, text: str) -> list[str]:
    """The words of a text that could answer, in their order or, where that does not count, sorted without repeats."""
    words = [match if domain == "character" else match.lower() for match in DOMAINS[domain].findall(text)]
    if domain == "number":
        words = ["zero" if word == "no" else word for word in words]
    return words if domain in ORDERED else sorted(set(words))


def capital(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    """`a star`, `an orange star`."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def listed(parts: list[str]) -> str:
    """`x`, `x and y`, `x, y and z`."""
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
    """A question that no picture answers."""
    return Question(
        "can't tell", rng.choice(UNANSWERABLE), "I can't tell", "I can't tell from the picture.", "cannot tell"
    )


def absent(text: str, noun: str) -> Question:
    """A question about a thing that the picture does not show."""
    sentence, about = f"I can't tell: there is no {noun} in the picture.", (Mention(NOWHERE, called=noun),)
    return Question("can't tell", text, "I can't tell", sentence, "cannot tell", about=about)


def medium(rng: random.Random, answer: str) -> Question:
    """Drawing or photograph."""
    text, sentence = rng.choice(
        (
            ("Is this a drawing or a photograph?", f"It is a {answer}."),
            ("What kind of picture is this?", f"This is a {answer}."),
            ("Is it a photograph or a drawing?", f"It is a {answer}."),
        )
    )
    return Question("drawing or photograph", text, answer, sentence, "medium")
