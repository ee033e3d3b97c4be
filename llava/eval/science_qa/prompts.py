"""A ScienceQA problem as what is asked and what is answered, in the prompt formats of ScienceQA and LLaVA.

A format is two words with a dash between, a letter for each part, in the order of the parts:

    what is asked     Q question, C context (the hint), M choices, L lecture, E explanation (the solution)
    what is answered  A answer, L lecture, E explanation; a P before the A sets it apart in a section of its own

`QCM-LEPA`, LLaVA's own, asks for lecture and explanation and then, after `###`, for the letter; `CQM-A` for the letter.
Lecture and explanation in what is asked are for finding upper bounds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llava.errors import InvalidRequest
from llava.eval.science_qa.dataset import OPTIONS, Problem

DEFAULT_FORMAT = "QCM-LEPA"
_INPUT = re.compile(r"(?!.*(.).*\1)(?=.*Q)(?=.*M)[QCMLE]+")
_OUTPUT = re.compile(r"(?!.*(.).*\1)(?:(?P<before>[LE]*)(?P<section>P?)A|A(?P<after>[LE]+))")
_PARTS = re.compile(r"[LE]+|[QCM]")


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """A format, taken apart."""

    asked: str
    """Letters of what is asked."""
    before: str
    """Letters of what is answered, before the answer."""
    after: str
    """Letters of what is answered, after the answer."""
    in_sections: bool
    """Each part of the answer has a heading of its own."""


def parse_format(text: str) -> PromptFormat:
    """Reads a format such as `QCM-LEPA`.

    Raises:
        InvalidRequest: it is none; tells what a format is.
    """
    asked, _, answered = text.partition("-")
    output = _OUTPUT.fullmatch(answered)
    if not _INPUT.fullmatch(asked) or output is None:
        raise InvalidRequest(
            f"prompt format {text!r}: expected what is asked (Q, M, maybe C, L, E), a dash, and what is answered "
            "(A, maybe L, E, P before it, or L, E after it), each letter once; such as QCM-LEPA, QCM-ALE or CQM-A."
        )
    return PromptFormat(asked, output["before"] or "", output["after"] or "", bool(output["section"]))


def render(problem: Problem, style: PromptFormat) -> tuple[str, str]:
    """What is asked (without image marker) and what is answered, character for character as the original's."""
    asked = _tidy(_asked(problem, style))
    answered = _tidy(_sections(problem, style) if style.in_sections else _sentence(problem, style))
    # The conversation's roles say who asks and who answers.
    return _without_heading(asked, "Question: "), _without_heading(answered, "Answer: ")


def _asked(problem: Problem, style: PromptFormat) -> str:
    parts = {
        "Q": f"Question: {problem.question}",
        "C": f"Context: {problem.hint.strip() or 'N/A'}",
        "M": "Options: " + " ".join(f"({OPTIONS[i]}) {choice}" for i, choice in enumerate(problem.choices)),
    }
    written = (parts.get(part) or f"BECAUSE: {_reasons(problem, part)}" for part in _PARTS.findall(style.asked))
    return "".join(f"{line}\n" for line in written)


def _sections(problem: Problem, style: PromptFormat) -> str:
    headings = {"L": ("LECTURE", problem.lecture), "E": ("SOLUTION", problem.solution)}
    reasons = [(heading, _lines(text)) for heading, text in (headings[letter] for letter in style.before)]
    written = "".join(f"{heading}: {text}\n" for heading, text in reasons if text.strip())
    return f"{written}###\nANSWER: {OPTIONS[problem.answer]}."


def _sentence(problem: Problem, style: PromptFormat) -> str:
    answer = f"The answer is {OPTIONS[problem.answer]}."
    before = f"{_reasons(problem, style.before)} " if style.before else ""
    # One reason alone after the answer is the other one: the original swapped them, and its data have it so.
    after = {"L": "E", "E": "L"}.get(style.after, style.after)
    return f"Answer: {before}{answer}" + (f" BECAUSE: {_reasons(problem, after)}" if after else "")


def _reasons(problem: Problem, letters: str) -> str:
    texts = {"L": problem.lecture, "E": problem.solution}
    return " ".join(_lines(texts[letter]) for letter in letters)


def _lines(text: str) -> str:
    """Some texts of ScienceQA spell their line ends."""
    return text.replace("\\n", "\n")


def _tidy(text: str) -> str:
    text = text.replace("  ", " ").strip()
    return text.replace("BECAUSE:", "").strip() if text.endswith("BECAUSE:") else text


def _without_heading(text: str, heading: str) -> str:
    return text.replace(heading, "") if text.startswith(heading) else text
