"""Figures of reviews: relative scores as the original has them, with intervals, and differences between models.

A relative score is the mean score of the second file's answers in percent of that of the first's. Where both orders
were asked, a question's scores are the means of the two. Intervals are percentiles of a bootstrap that draws images,
with all their questions, because answers about one image succeed and fail together.
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
"""Percentiles of the resampled figures: 95 % lie between."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One category of one model."""

    category: str
    num_questions: int
    mean1: float
    """Of the first file's answers, rounded to 3 decimals as the original does before it divides."""
    mean2: float
    relative: float | None
    """mean2 / mean1, percent, 1 decimal; None where mean1 is 0."""
    low: float | None
    """The 95 % interval begins here; None without resamples or with fewer than two images."""
    high: float | None


@dataclass(frozen=True, slots=True)
class OrderGap:
    """What it changes which answer the judge sees first."""

    num_questions: int
    """Asked in both orders, with scores in both."""
    forward: float
    """Relative score where the first file's answer is seen first."""
    swapped: float
    """Relative score where it is seen second."""
    gap: float
    """swapped - forward: positive where the judge prefers what it sees first."""
    low: float | None
    high: float | None
    num_flipped: int
    """Questions whose winner is another one in the other order."""


@dataclass(frozen=True, slots=True)
class Model:
    """All figures of one file."""

    name: str
    file: str
    judges: tuple[str, ...]
    figures: tuple[Figure, ...]
    """By category, `all` first, as sorted names have it."""
    order_gap: OrderGap | None
    num_reviews: int
    unparsable: tuple[str, ...]
    """Ids of questions with a review that has no scores; that review counts in no figure."""
    one_order_only: tuple[str, ...]
    """Ids of questions with scores in one order, in a file that has both."""
    num_images: int
    """Groups that were resampled."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """Two models on the questions that both have."""

    first: str
    second: str
    category: str
    num_questions: int
    difference: float
    """Relative score of the second minus that of the first, points."""
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Scored:
    """The questions of a file that have scores."""

    ids: list[str]
    categories: list[str | None]
    groups: list[str]
    """What is resampled together: the image, or the question itself."""
    scores: Floats
    """[questions, 2], means over the orders."""

    def rows(self, category: str) -> list[int]:
        return [row for row, own in enumerate(self.categories) if category in (ALL, own)]


@dataclass(frozen=True)
class Bootstrap:
    """How to resample."""

    num_resamples: int = 2000
    seed: int = 0
    images: Mapping[str, str] = field(default_factory=dict)
    """The image of a question, by id, where reviews do not say it."""

    def group(self, review: Review) -> str:
        image = review.image or self.images.get(review.question_id)
        return f"image {image}" if image else f"question {review.question_id}"

    def weights(self, num_groups: int) -> Floats:
        """How often each group is drawn, [resamples, groups]; the same for the same number of groups."""
        generator = np.random.default_rng(self.seed)
        shares = np.full(num_groups, 1.0 / num_groups)
        return generator.multinomial(num_groups, shares, size=self.num_resamples).astype(np.float64)


def model_figures(reviews: Reviews, name: str, bootstrap: Bootstrap) -> Model:
    """All figures of a file."""
    usable = [review for review in reviews.reviews if review.scores is not None]
    scored = score(usable, bootstrap)
    orders = {review.order for review in reviews.reviews}
    both = {identity for identity in scored.ids if _has_both(usable, identity)} if len(orders) > 1 else set()
    categories = sorted({ALL, *(category for category in scored.categories if category is not None)})
    return Model(
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
    """Puts reviews that have scores together by question."""
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


def differences(models: Sequence[tuple[str, Scored]], bootstrap: Bootstrap) -> list[Difference]:
    """Every pair of models, in the categories that both have, on the questions that both have."""
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


def _figure(scored: Scored, category: str, bootstrap: Bootstrap) -> Figure:
    rows = scored.rows(category)
    scores = scored.scores[rows]
    mean1, mean2 = (round(mean, 3) for mean in scores.mean(0).tolist())
    relative = round(mean2 / mean1 * 100, 1) if mean1 else None
    low, high = _interval(_resampled(scores, [scored.groups[row] for row in rows], bootstrap))
    return Figure(category, len(rows), mean1, mean2, relative, low, high)


def _difference(
    first: str, one: Scored, second: str, other: Scored, category: str, bootstrap: Bootstrap
) -> Difference | None:
    places = {other.ids[row]: row for row in other.rows(category)}
    pairs = [(row, places[one.ids[row]]) for row in one.rows(category) if one.ids[row] in places]
    if not pairs:
        return None
    groups = [one.groups[row] for row, _ in pairs]
    own, others = one.scores[[row for row, _ in pairs]], other.scores[[row for _, row in pairs]]
    if not own[:, 0].sum() or not others[:, 0].sum():
        return None
    apart = _resampled(others, groups, bootstrap) - _resampled(own, groups, bootstrap)
    return Difference(first, second, category, len(pairs), _relative(others) - _relative(own), *_interval(apart))


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
    """Relative scores of resampled images, [resamples]; empty with fewer than two images."""
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
