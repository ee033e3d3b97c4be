"""Computes the figures of reviews: relative scores as in the original, intervals, and differences between models.

A relative score is the mean score of the second file's answers in percent of that of the first file's. If both orders
of the answers were judged, a question's scores are the means of the two. Intervals are percentiles of a bootstrap that
draws images with all their questions, because answers about one image succeed and fail together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llava.eval.reviews.reader import Review, Reviews

Floats = NDArray[np.float64]

ALL: Final = "all"
INTERVAL: Final = (2.5, 97.5)
"""Percentiles of the resampled figures that enclose 95 % of them."""


@dataclass(frozen=True, slots=True)
class ReviewFigure:
    """The scores of one model in one category."""

    category: str
    num_questions: int
    mean1: float
    """Mean score of the first file's answers, rounded to 3 decimals as in the original, which divides rounded means."""
    mean2: float
    """Mean score of the second file's answers, rounded likewise."""
    relative: float | None
    """mean2 / mean1 in percent, rounded to 1 decimal; None if mean1 is 0."""
    low: float | None
    """Lower end of the 95 % interval. Both ends are None without resamples or with fewer than two images."""
    high: float | None


@dataclass(frozen=True, slots=True)
class OrderGap:
    """How much the scores depend on which answer the judge sees first."""

    num_questions: int
    """Questions with scores in both orders."""
    forward: float
    """Relative score if the judge sees the first file's answer first."""
    swapped: float
    """Relative score if the judge sees the first file's answer second."""
    gap: float
    """swapped - forward, which is positive if the judge prefers the answer it sees first."""
    low: float | None
    high: float | None
    num_flipped: int
    """Questions whose winner changes with the order."""


@dataclass(frozen=True, slots=True)
class ReviewedModel:
    """All figures of one file."""

    name: str
    file: str
    judges: tuple[str, ...]
    figures: tuple[ReviewFigure, ...]
    """The figures by category, sorted by name."""
    order_gap: OrderGap | None
    num_reviews: int
    unparsable: tuple[str, ...]
    """Ids of questions with a review without scores. Such a review counts in no figure."""
    one_order_only: tuple[str, ...]
    """Ids of questions with scores in only one order, if the file contains both orders."""
    num_images: int
    """Number of groups that are resampled."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReviewDifference:
    """The difference of two models on the questions that both answered."""

    first: str
    second: str
    category: str
    num_questions: int
    difference: float
    """Relative score of the second model minus that of the first, in points."""
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Scored:
    """The questions of a file that have scores, as lists in one common order."""

    ids: list[str]
    categories: list[str | None]
    groups: list[str]
    """What each question is resampled with: its image, or only itself."""
    scores: Floats
    """Scores of the two answers, averaged over the orders; [questions, 2]."""

    def rows(self, category: str) -> list[int]:
        return [row for row, own in enumerate(self.categories) if category in (ALL, own)]


@dataclass(frozen=True)
class Bootstrap:
    """How figures are resampled."""

    num_resamples: int = 2000
    seed: int = 0
    images: Mapping[str, str] = field(default_factory=dict)
    """The image of each question, by id, for reviews that do not name it."""

    def group(self, review: Review) -> str:
        image = review.image or self.images.get(review.question_id)
        return f"image {image}" if image else f"question {review.question_id}"

    def weights(self, num_groups: int) -> Floats:
        """Returns how often each group is drawn, [resamples, groups]. Equal numbers of groups get equal draws."""
        generator = np.random.default_rng(self.seed)
        shares = np.full(num_groups, 1.0 / num_groups)
        return generator.multinomial(num_groups, shares, size=self.num_resamples).astype(np.float64)


def model_figures(reviews: Reviews, name: str, bootstrap: Bootstrap) -> ReviewedModel:
    """Computes all figures of a file."""
    usable = [review for review in reviews.reviews if review.scores is not None]
    scored = score(usable, bootstrap)
    orders = {review.order for review in reviews.reviews}
    both = {identity for identity in scored.ids if _has_both(usable, identity)} if len(orders) > 1 else set()
    categories = sorted({ALL, *(category for category in scored.categories if category is not None)})
    return ReviewedModel(
        name=name,
        file=str(reviews.path),
        judges=tuple(reviews.judges),
        figures=tuple(_figure(scored, category, bootstrap) for category in categories) if usable else (),
        order_gap=_order_gap([review for review in usable if review.question_id in both], bootstrap) if both else None,
        num_reviews=len(reviews.reviews),
        unparsable=tuple(dict.fromkeys(r.question_id for r in reviews.reviews if r.scores is None)),
        one_order_only=tuple(i for i in scored.ids if i not in both) if len(orders) > 1 else (),
        num_images=len(set(scored.groups)),
    )


def score(reviews: Sequence[Review], bootstrap: Bootstrap) -> Scored:
    """Groups reviews with scores by question."""
    by_question: dict[str, list[Review]] = {}
    for review in reviews:
        by_question.setdefault(review.question_id, []).append(review)
    firsts = [some[0] for some in by_question.values()]
    means = [np.mean([review.scores or () for review in some], axis=0) for some in by_question.values()]
    return Scored(
        ids=list(by_question),
        categories=[review.category for review in firsts],
        groups=[bootstrap.group(review) for review in firsts],
        scores=np.array(means, dtype=np.float64).reshape(-1, 2),
    )


def differences(models: Sequence[tuple[str, Scored]], bootstrap: Bootstrap) -> list[ReviewDifference]:
    """Compares every pair of models, in the categories and on the questions that both have."""
    found = []
    for index, (first, one) in enumerate(models):
        for second, other in models[index + 1 :]:
            categories = sorted({ALL} | ({*one.categories} & {*other.categories}) - {None}, key=str)
            found += [
                difference
                for category in categories
                if (difference := _difference(first, one, second, other, str(category), bootstrap))
            ]
    return found


def _figure(scored: Scored, category: str, bootstrap: Bootstrap) -> ReviewFigure:
    rows = scored.rows(category)
    scores = scored.scores[rows]
    mean1, mean2 = (round(mean, 3) for mean in scores.mean(0).tolist())
    relative = round(mean2 / mean1 * 100, 1) if mean1 else None
    low, high = _interval(_resampled(scores, [scored.groups[row] for row in rows], bootstrap))
    return ReviewFigure(category, len(rows), mean1, mean2, relative, low, high)


def _difference(
    first: str, one: Scored, second: str, other: Scored, category: str, bootstrap: Bootstrap
) -> ReviewDifference | None:
    places = {other.ids[row]: row for row in other.rows(category)}
    pairs = [(row, places[one.ids[row]]) for row in one.rows(category) if one.ids[row] in places]
    if not pairs:
        return None
    groups = [one.groups[row] for row, _ in pairs]
    own, others = one.scores[[row for row, _ in pairs]], other.scores[[row for _, row in pairs]]
    if not own[:, 0].sum() or not others[:, 0].sum():
        return None
    apart = _resampled(others, groups, bootstrap) - _resampled(own, groups, bootstrap)
    return ReviewDifference(first, second, category, len(pairs), _relative(others) - _relative(own), *_interval(apart))


def _order_gap(reviews: list[Review], bootstrap: Bootstrap) -> OrderGap | None:
    forward = score([review for review in reviews if review.order == "forward"], bootstrap)
    swapped = score([review for review in reviews if review.order != "forward"], bootstrap)
    place = {identity: row for row, identity in enumerate(swapped.ids)}
    other = swapped.scores[[place[identity] for identity in forward.ids]]
    if not forward.scores[:, 0].sum() or not other[:, 0].sum():
        return None
    apart = _resampled(other, forward.groups, bootstrap) - _resampled(forward.scores, forward.groups, bootstrap)
    winners = (np.sign(side[:, 1] - side[:, 0]) for side in (forward.scores, other))
    num_flipped = int((next(winners) * next(winners) < 0).sum())
    one, two = _relative(forward.scores), _relative(other)
    return OrderGap(len(forward.ids), one, two, two - one, *_interval(apart), num_flipped)


def _has_both(reviews: Sequence[Review], identity: str) -> bool:
    return len({review.order for review in reviews if review.question_id == identity}) > 1


def _relative(scores: Floats) -> float:
    sums = scores.sum(0)
    return float(sums[1] / sums[0] * 100)


def _resampled(scores: Floats, groups: Sequence[str], bootstrap: Bootstrap) -> Floats:
    """Returns the relative score of each resample, [resamples]; empty with fewer than two images."""
    names = list(dict.fromkeys(groups))
    if len(names) < 2 or not bootstrap.num_resamples:
        return np.empty(0)
    place = {name: index for index, name in enumerate(names)}
    sums = np.zeros((len(names), 2))
    np.add.at(sums, [place[group] for group in groups], scores)
    drawn = bootstrap.weights(len(names)) @ sums
    with np.errstate(divide="ignore", invalid="ignore"):
        return drawn[:, 1] / drawn[:, 0] * 100


def _interval(resampled: Floats) -> tuple[float | None, float | None]:
    finite = resampled[np.isfinite(resampled)]
    if not len(finite):
        return None, None
    low, high = np.percentile(finite, INTERVAL).tolist()
    return low, high
