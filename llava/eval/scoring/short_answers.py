"""Short answers to visual questions: brought to one form, and scored against the answers of ten people.

Two forms are in use, and published figures depend on which: that of the VQA evaluation (`vqa_form`; also VizWiz's), and
that of the evaluation server and of TextVQA (`server_form`). Both are given here to the letter, with what is odd about
them, since a tidier one would move the figures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from llava.eval.scoring.marks import MarkedAnswer

NUM_PEOPLE = 10
"""Answers that each question has in VQA, VizWiz and TextVQA."""

ARTICLES = ("a", "an", "the")
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""In the order in which the rule looks at them."""

_SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {broken: whole for whole in _SHORTENED.split() for broken in _without_one_apostrophe(whole)} | {
    "somebody'd": "somebodyd"
}
"""What people type where they mean a contraction, one apostrophe missing. The last goes the other way: as published."""

_REMEMBERED = 65_536
"""Answers whose form is kept: of two million short ones, few are different."""
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32
"""The published code hands a flag of value 32 to the place of the largest number of replacements."""
_COMMA_BETWEEN_DIGITS = re.compile(r"\d,\d")
_COMMAS_BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")


@lru_cache(maxsize=_REMEMBERED)
def vqa_form(answer: str) -> str:
    """An answer in the form of the VQA evaluation."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    return _plain_words(_without_punctuation(answer, _COMMA_BETWEEN_DIGITS))


@lru_cache(maxsize=_REMEMBERED)
def server_form(answer: str) -> str:
    """An answer in the form of the evaluation server: without capitals, commas and question marks from the start."""
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    return _plain_words(_without_punctuation(answer, _COMMAS_BETWEEN_DIGITS))


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """From 0 to 1, how far people agree with an answer: three who say the same make it right.

    Averaged over leaving out each of the people once, so that it can be compared with how people agree with each other.
    All texts are compared as they stand: bring them to one form before.
    """
    same = Counter(people)[answer]
    others = len(people) - same
    return (same * min(1.0, (same - 1) / 3) + others * min(1.0, same / 3)) / len(people)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """`soft_accuracy` as the VQA evaluation has it: where all people said the same, nothing is brought to its form."""
    people = [_one_line(one) for one in people]
    form: Callable[[str], str] = vqa_form if len(set(people)) > 1 else _one_line
    return soft_accuracy(form(answer), [form(one) for one in people])


def server_accuracy(answer: str, people: Sequence[str]) -> float:
    """`soft_accuracy` as TextVQA has it."""
    return soft_accuracy(server_form(answer), [server_form(one) for one in people])


def mark_by_people(
    question_id: str,
    text: str | None,
    people: Sequence[str],
    *,
    accuracy: Callable[[str, Sequence[str]], float],
    form: Callable[[str], str],
    question: str | None,
    image: str | None,
    categories: tuple[str, ...] = (),
) -> MarkedAnswer:
    """What an answer is worth by the answers of people; a missing one, None, is worth nothing.

    Args:
        accuracy, form: of the benchmark: `vqa_accuracy` and `vqa_form`, or `server_accuracy` and `server_form`.
        question, image, categories: as in `MarkedAnswer`.
    """
    return MarkedAnswer(
        question_id=question_id,
        text=text,
        score=0.0 if text is None else accuracy(text, people),
        parsed=None if text is None else form(text),
        target=", ".join(dict.fromkeys(people)),
        question=question,
        image=image,
        categories=categories,
    )


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str, comma_in_number: re.Pattern[str]) -> str:
    """A mark goes where it touches a space, or where the text has a number with a comma; elsewhere it parts words."""
    bare = text
    has_number = comma_in_number.search(text) is not None
    for mark in PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if touches_space or has_number else " ")
    return _PERIOD.sub("", bare, count=_MAX_PERIODS)


def _plain_words(text: str) -> str:
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
