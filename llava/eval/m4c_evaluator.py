"""Scores short answers, under the class names that other projects import from this module.

`llava.eval.scoring.short_answers` contains the rules. A prediction is {"pred_answer": text, "gt_answers": [text, ...]};
a score is a mean from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llava.eval.scoring.short_answers import server_accuracy, server_form

Prediction = Mapping[str, Any]


class EvalAIAnswerProcessor:
    """Normalises answers as the evaluation server does."""

    def __call__(self, item: str) -> str:
        """Returns the normalised answer."""
        return server_form(item)


class TextVQAAccuracyEvaluator:
    """Scores answers to TextVQA by their agreement with ten people."""

    def eval_pred_list(self, pred_list: Iterable[Prediction]) -> float:
        """Returns the mean score."""
        return _mean([server_accuracy(one["pred_answer"], one["gt_answers"]) for one in pred_list])


class STVQAAccuracyEvaluator:
    """Scores answers to ST-VQA: 1 if the answer is one of the correct ones, else 0."""

    def eval_pred_list(self, pred_list: Iterable[Prediction]) -> float:
        """Returns the mean score."""
        return _mean(
            [
                float(server_form(one["pred_answer"]) in {server_form(answer) for answer in one["gt_answers"]})
                for one in pred_list
            ]
        )


class STVQAANLSEvaluator:
    """Scores answers to ST-VQA by their similarity to the closest correct answer (ANLS)."""

    def get_anls(self, s1: str, s2: str) -> float:
        """Returns 1 minus the edit distance divided by the longer length; 0 if that is below one half."""
        first, second = s1.lower().strip(), s2.lower().strip()
        longest = max(len(first), len(second))
        similarity = 1 - _edits(first, second) / longest if longest else 1.0
        return similarity if similarity >= 0.5 else 0.0

    def eval_pred_list(self, pred_list: Iterable[Prediction]) -> float:
        """Returns the mean score."""
        return _mean(
            [max(self.get_anls(one["pred_answer"], answer) for answer in one["gt_answers"]) for one in pred_list]
        )


def _edits(first: str, second: str) -> int:
    """Returns the Levenshtein distance: the least number of characters to insert, delete or replace."""
    row = list(range(len(second) + 1))
    for above, one in enumerate(first, start=1):
        diagonal, row[0] = row[0], above
        for place, other in enumerate(second, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (one != other))
    return row[-1]


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
