"""Normalises short answers to visual questions and scores them against the answers of ten people.

There are two normal forms, and published figures depend on the choice: that of the VQA evaluation, which VizWiz shares
(`vqa_form`), and that of the evaluation server and of TextVQA (`server_form`). Both are reproduced exactly, including
their oddities, because a cleaner rule would change the figures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from llava.eval.scoring.marks import MarkedAnswer

NUM_PEOPLE = 10
"""Number of people's answers to each question in VQA, VizWiz and TextVQA."""

ARTICLES = ("a", "an", "the")
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Punctuation, in the order in which the rule processes it."""

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
"""Contractions by their misspellings with one apostrophe missing. The last pair is reversed, as published."""

_REMEMBERED = 65_536
"""Number of normalised answers to cache: among two million short answers, few are different."""
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32
"""The published code passes a flag of value 32 as the maximum number of replacements."""
_COMMA_BETWEEN_DIGITS = re.compile(r"\d,\d")
_COMMAS_BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")


@lru_cache(maxsize=_REMEMBERED)
def vqa_form(answer: str) -> str:
    """Returns an answer in the form of the VQA evaluation."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    return _plain_words(_without_punctuation(answer, _COMMA_BETWEEN_DIGITS))


@lru_cache(maxsize=_REMEMBERED)
def server_form(answer: str) -> str:
    """Returns an answer in the form of the evaluation server, which first drops case, commas and question marks."""
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    return _plain_words(_without_punctuation(answer, _COMMAS_BETWEEN_DIGITS))


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """Returns from 0 to 1 how far people agree with an answer; three people who give the same answer make it correct.

    The score is the average over leaving out each person once, so it is comparable with the agreement among people.
    Texts are compared as they are: normalise them first.
    """
    same = Counter(people)[answer]
    others = len(people) - same
    return (same * min(1.0, (same - 1) / 3) + others * min(1.0, same / 3)) / len(people)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Returns the `soft_accuracy` of the VQA evaluation, which normalises nothing if all people agree."""
    people = [_one_line(one) for one in people]
    form: Callable[[str], str] = vqa_form if len(set(people)) > 1 else _one_line
    return soft_accuracy(form(answer), [form(one) for one in people])


def server_accuracy(answer: str, people: Sequence[str]) -> float:
    """Returns the `soft_accuracy` of TextVQA."""
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
    """Marks an answer by its agreement with people's answers; a missing answer (None) scores 0.

    Args:
        question_id: id of the question.
        text: the answer.
        people: the answers of people.
        accuracy: the score of the benchmark: `vqa_accuracy` or `server_accuracy`.
        form: its normal form: `vqa_form` or `server_form`.
        question: text of the question, if it is known.
        image: name of its image, if it is known.
        categories: categories that the question belongs to.
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
    """Removes punctuation next to a space or in a text that has a number with a comma; elsewhere it becomes a space."""
    bare = text
    has_number = comma_in_number.search(text) is not None
    for mark in PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if touches_space or has_number else " ")
    return _PERIOD.sub("", bare, count=_MAX_PERIODS)


def _plain_words(text: str) -> str:
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
