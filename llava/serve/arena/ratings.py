"""Rates players by their games against each other: Bradley-Terry or Elo scores, with intervals.

Scores of both methods are on the scale of chess: 400 points are odds of 10 to 1, and 1000 is the middle. A tie is half
a win for each side.

Scores are comparable only between players that games connect, so each connected group is rated separately, around its
own middle. Within a group the Bradley-Terry likelihood has a maximum only if every player has beaten every other,
directly or through others (a tie counts as a win both ways); a player who has won every game would be infinitely
strong. So if two players met and only one of them ever beat the other, even through others, one tie is added between
them. For two players alone this is Jeffreys' prior. Resampled games follow the same rule. `Rating.bounded_below` and
`bounded_above` say on which side the games limit a score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from llava.serve.arena.bradley_terry import Bools, Floats, beats_in_a_chain, bradley_terry, has_maximum

Method = Literal["bradley-terry", "elo"]
Indices = NDArray[np.integer[Any]]

SCALE: Final = 400.0
BASE: Final = 10.0
INITIAL: Final = 1000.0
ELO_K: Final = 4.0
POINTS: Final = SCALE / math.log(BASE)
"""Score points per unit of natural log odds."""

PRIOR_TIES: Final = 1.0
"""Ties added between two players who met but did not both beat each other, even through others."""

INTERVAL: Final = (2.5, 97.5)
"""Percentiles of the resampled scores that enclose 95 % of them."""

# Sizes of arrays of resampled games, which bound the memory.
_BATCH_NUMBERS: Final = 1_000_000
_BATCH_INDICES: Final = 32_000_000


@dataclass(frozen=True, slots=True)
class Games:
    """Results of games between two players, in order of time."""

    players: tuple[str, ...]
    first: Indices
    """Index of one player, [games]."""
    second: Indices
    """Index of the other player, [games]."""
    points: Floats
    """1 if the first player won, 0 if the second won, 0.5 for a tie; [games]."""

    def wins(self) -> Floats:
        """Returns how often the row's player beat the column's, with ties as half a win; [players, players]."""
        wins = np.zeros((len(self.players), len(self.players)))
        np.add.at(wins, (self.first, self.second), self.points)
        np.add.at(wins, (self.second, self.first), 1.0 - self.points)
        return wins


@dataclass(frozen=True, slots=True)
class Rating:
    """One player's score and the interval that encloses 95 % of its resampled scores."""

    player: str
    score: float
    low: float | None
    """Lower end of the interval. Both ends are None without resamples, or if a side is not bounded."""
    high: float | None
    bounded_below: bool
    """False if this player never beat some other, even through others, so nothing says how weak it may be."""
    bounded_above: bool
    """False if some player never beat this one, even through others, so nothing says how strong it may be."""


@dataclass(frozen=True, slots=True)
class Group:
    """Players that games connect, rated together, the strongest first."""

    ratings: tuple[Rating, ...]
    uses_prior: bool
    """Whether ties were added because the likelihood has no maximum. Always False for Elo."""
    num_resamples_with_prior: int
    """Number of resamples to which ties were added. Always 0 for Elo."""


def rate(games: Games, method: Method, *, num_resamples: int, seed: int) -> list[Group]:
    """Rates each connected group of players. The group with the most games comes first.

    Args:
        games: at least one game, and none of a player against itself.
        num_resamples: bootstrap resamples of each group's games; 0 for scores without intervals.
        seed: random seed of the resampling.
    """
    generator = np.random.default_rng(seed)
    parts = [_part(games, members) for members in _components(games.wins())]
    parts.sort(key=lambda part: (-len(part.points), part.players))
    return [_rate_group(part, method, num_resamples, generator) for part in parts]


# Elo


def elo(games: Games, order: Indices) -> Floats:
    """Returns the Elo scores after a sequence of games, with K = 4 and a start at 1000.

    Args:
        order: indices of the games in the order they are played, [..., played].

    Returns:
        Scores, [..., players].
    """
    rows = order.reshape(-1, order.shape[-1])
    scores = np.full((len(rows), len(games.players)), INITIAL)
    row = np.arange(len(rows))
    for played in rows.T:
        first, second = games.first[played], games.second[played]
        expected = 1.0 / (1.0 + BASE ** ((scores[row, second] - scores[row, first]) / SCALE))
        gain = ELO_K * (games.points[played] - expected)
        scores[row, first] += gain
        scores[row, second] -= gain
    return scores.reshape(*order.shape[:-1], len(games.players))


# Groups and intervals


def _components(wins: Floats) -> list[Indices]:
    """Returns the indices of the players of each connected group."""
    together = beats_in_a_chain(wins + wins.T)
    return [np.flatnonzero(row) for index, row in enumerate(together) if not row[:index].any()]


def _part(games: Games, members: Indices) -> Games:
    inside = np.isin(games.first, members)
    place = np.full(len(games.players), -1)
    place[members] = np.arange(len(members))
    players = tuple(games.players[index] for index in members)
    return Games(players, place[games.first[inside]], place[games.second[inside]], games.points[inside])


@dataclass(frozen=True, slots=True)
class _Estimate:
    scores: Floats
    """[players]."""
    resampled: Floats
    """[resamples, players]."""
    uses_prior: bool = False
    num_resamples_with_prior: int = 0


def _rate_group(games: Games, method: Method, num_resamples: int, generator: np.random.Generator) -> Group:
    wins = games.wins()
    chain = beats_in_a_chain(wins)
    middle = _reference(wins, chain)
    if method == "elo":
        estimate = _estimate_elo(games, num_resamples, generator)
    else:
        estimate = _estimate_bradley_terry(games, middle, num_resamples, generator)
    lows, highs = _intervals(estimate.resampled)
    # A row of `chain` says whom a player beat, a column who beat it.
    below = [bool(chain[index, middle].all()) for index in range(len(wins))]
    above = [bool(chain[middle, index].all()) for index in range(len(wins))]
    ratings = [
        Rating(
            player,
            float(estimate.scores[index]),
            lows[index] if below[index] and above[index] else None,
            highs[index] if below[index] and above[index] else None,
            bounded_below=below[index],
            bounded_above=above[index],
        )
        for index, player in enumerate(games.players)
    ]
    ratings.sort(key=lambda rating: (-round(rating.score, 6), rating.player))
    return Group(tuple(ratings), estimate.uses_prior, estimate.num_resamples_with_prior)


def _intervals(resampled: Floats) -> tuple[list[float | None], list[float | None]]:
    """Returns the lower and the upper ends, one per player; all None without resamples."""
    if not len(resampled):
        nothing: list[float | None] = [None] * resampled.shape[-1]
        return nothing, nothing
    lows, highs = np.percentile(resampled, INTERVAL, axis=0).tolist()
    return lows, highs


def _estimate_elo(games: Games, num_resamples: int, generator: np.random.Generator) -> _Estimate:
    resampled = [elo(games, order) for order in _orders(games, num_resamples, generator)]
    return _Estimate(elo(games, np.arange(len(games.points))), _stacked(resampled, games))


def _estimate_bradley_terry(
    games: Games, middle: Indices, num_resamples: int, generator: np.random.Generator
) -> _Estimate:
    wins = games.wins()
    met = (wins + wins.T) > 0
    resampled, num_lacking = [], 0
    for tables in _tables(games, num_resamples, generator):
        resampled.append(_scores(_with_prior(tables, met), middle))
        num_lacking += int((~has_maximum(tables)).sum())
    scores = _scores(_with_prior(wins, met), middle)
    return _Estimate(scores, _stacked(resampled, games), not has_maximum(wins), num_lacking)


def _stacked(batches: list[Floats], games: Games) -> Floats:
    return np.concatenate([np.empty((0, len(games.players))), *batches])


def _with_prior(wins: Floats, met: Bools) -> Floats:
    """Adds the prior's ties, of which there are none if the likelihood has a maximum; [..., players, players]."""
    chain = beats_in_a_chain(wins)
    mutual = chain & chain.swapaxes(-1, -2)
    return wins + 0.5 * PRIOR_TIES * (met & ~mutual)


def _scores(wins: Floats, middle: Indices) -> Floats:
    """Returns Bradley-Terry scores whose mean over `middle` is 1000; [..., players, players] to [..., players]."""
    strengths = bradley_terry(wins)
    return INITIAL + POINTS * (strengths - strengths[..., middle].mean(-1, keepdims=True))


def _reference(wins: Floats, chain: Bools) -> Indices:
    """Returns the players whose mean score is 1000: the largest set whose members all beat each other through others.

    If there is no such set, all players are used. This way a newcomer that has won its only game neither moves nor
    limits the score of anybody else.
    """
    mutual = chain & chain.T
    sets = [np.flatnonzero(row) for index, row in enumerate(mutual) if not row[:index].any()]
    largest = max(sets, key=lambda members: (len(members), wins[np.ix_(members, members)].sum()))
    return largest if len(largest) > 1 else np.arange(len(wins))


def _orders(games: Games, num_resamples: int, generator: np.random.Generator) -> Iterator[Indices]:
    """Yields games drawn with replacement, in order of time, in batches of [resamples, games]."""
    total = len(games.points)
    for size in _batches(num_resamples, _BATCH_INDICES // total):
        order = generator.integers(total, size=(size, total), dtype=np.int32)
        order.sort(axis=-1)
        yield order


def _tables(games: Games, num_resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Yields wins in games drawn with replacement, in batches of [resamples, players, players]."""
    players = len(games.players)
    results = np.stack([games.first, games.second, np.rint(2 * games.points).astype(np.intp)], axis=1)
    kinds, counts = np.unique(results, axis=0, return_counts=True)
    first, second, points = kinds[:, 0], kinds[:, 1], kinds[:, 2] / 2
    for size in _batches(num_resamples, _BATCH_NUMBERS // max(players * players, len(kinds))):
        drawn = generator.multinomial(len(games.points), counts / counts.sum(), size=size)
        wins = np.zeros((size, players, players))
        for kind in range(len(kinds)):
            wins[:, first[kind], second[kind]] += drawn[:, kind] * points[kind]
            wins[:, second[kind], first[kind]] += drawn[:, kind] * (1 - points[kind])
        yield wins


def _batches(num_resamples: int, most: int) -> Iterator[int]:
    most = max(1, most)
    for start in range(0, num_resamples, most):
        yield min(most, num_resamples - start)
