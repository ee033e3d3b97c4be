"""Scores of short answers, under the class names that other projects import from here.

The rules stand in `llava.eval.scoring.short_answers`. A prediction is {"pred_answer": text, "gt_answers": [text, ...]};
scores are means from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llava.eval.scoring.short_answers import server_accuracy, server_form

Prediction = Mapping[str, Any]


class EvalAIAnswerProcessor:
    """Brings an answer to the form of the evaluation server."""

    def __call__(self, item: str) -> str:
        return server_form(item)


class TextVQAAccuracyEvaluator:
    """TextVQA: how far ten people agree with the answer."""

    def eval_pred_list(self, pred_list: Iterable[Prediction]) -> float:
        return _mean([server_accuracy(one["pred_answer"], one["gt_answers"]) for one in pred_list])


class STVQAAccuracyEvaluator:
    """ST-VQA: whether the answer is one of those given."""

    def eval_pred_list(self, pred_list: Iterable[Prediction]) -> float:
        return _mean(
            [
                float(server_form(one["pred_answer"]) in {server_form(answer) for answer in one["gt_answers"]})
                for one in pred_list
            ]
        )


class STVQAANLSEvaluator:
    """ST-VQA: likeness to the closest of the answers given, by edits; nothing where less than half of it is alike."""

    def get_anls(self, s1: str, s2: str) -> float:
        """Likeness of two texts, 1 less edits by the longer text's characters; 0 below one half."""
        first, second = s1.lower().strip(), s2.lower().strip()
        longest = max(len(first), len(second))
        likeness = 1 - _edits(first, second) / longest if longest else 1.0
        return likeness if likeness >= 0.5 else 0.0

    def eval_pred_list(self, pred_list: Iterable[Prediction]) -> float:
        return _mean(
            [max(self.get_anls(one["pred_answer"], answer) for answer in one["gt_answers"]) for one in pred_list]
        )


def _edits(first: str, second: str) -> int:
    """The least number of characters to insert, delete or replace (Levenshtein's distance)."""
    row = list(range(len(second) + 1))
    for above, one in enumerate(first, start=1):
        diagonal, row[0] = row[0], above
        for place, other in enumerate(second, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (one != other))
    return row[-1]


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
