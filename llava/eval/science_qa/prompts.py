"""Renders a ScienceQA problem as a question and an answer, in the prompt formats of ScienceQA and LLaVA.

A format is two words joined by a dash. Each letter stands for a part, in the order of the parts:

    question  Q question, C context (the hint), M choices, L lecture, E explanation (the solution)
    answer    A answer, L lecture, E explanation; a P before the A puts the answer in its own section

`QCM-LEPA`, LLaVA's own format, asks for lecture and explanation and then, after `###`, for the letter. `CQM-A` asks
for the letter only. Lecture and explanation in the question serve to find upper bounds.
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
    """The parts of a format."""

    asked: str
    """Letters of the question."""
    before: str
    """Letters of the parts before the answer."""
    after: str
    """Letters of the parts after the answer."""
    in_sections: bool
    """Whether each part of the answer has its own heading."""


def parse_format(text: str) -> PromptFormat:
    """Reads a format such as `QCM-LEPA`.

    Raises:
        InvalidRequest: the text is not a format. The message describes the format.
    """
    asked, _, answered = text.partition("-")
    output = _OUTPUT.fullmatch(answered)
    if not _INPUT.fullmatch(asked) or output is None:
        raise InvalidRequest(
            f"prompt format {text!r}: expected the letters of the question (Q and M, optionally C, L, E), a dash, and "
            "those of the answer (A, optionally L, E, P before it or L, E after it), each at most once, "
            "such as QCM-LEPA, QCM-ALE or CQM-A."
        )
    return PromptFormat(asked, output["before"] or "", output["after"] or "", bool(output["section"]))


def render(problem: Problem, style: PromptFormat) -> tuple[str, str]:
    """Returns the question, without image marker, and the answer, character for character as in the original."""
    asked = _tidy(_asked(problem, style))
    answered = _tidy(_sections(problem, style) if style.in_sections else _sentence(problem, style))
    # The conversation's roles replace these headings.
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
    # If only one reason follows the answer, it is the other one: the original swapped them, and so did its data.
    after = {"L": "E", "E": "L"}.get(style.after, style.after)
    return f"Answer: {before}{answer}" + (f" BECAUSE: {_reasons(problem, after)}" if after else "")


def _reasons(problem: Problem, letters: str) -> str:
    texts = {"L": problem.lecture, "E": problem.solution}
    return " ".join(_lines(texts[letter]) for letter in letters)


def _lines(text: str) -> str:
    """Replaces the line ends that some texts of ScienceQA spell out as a backslash and an n."""
    return text.replace("\\n", "\n")


def _tidy(text: str) -> str:
    text = text.replace("  ", " ").strip()
    return text.replace("BECAUSE:", "").strip() if text.endswith("BECAUSE:") else text


def _without_heading(text: str, heading: str) -> str:
    return text.replace(heading, "") if text.startswith(heading) else text
