"""Computes the arena's ranking as plain data: standings, pairs, counts, and notes for the reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from llava.errors import DataError
from llava.serve.arena.battles import Selection, select
from llava.serve.arena.ratings import Games, Group, Method, Rating, rate
from llava.serve.arena.vote_log import HOW_TO_GET_VOTES, Battle, Vote, VoteLog

_POINTS = {Vote.LEFT: 1.0, Vote.RIGHT: 0.0, Vote.TIE: 0.5, Vote.BOTH_BAD: 0.5}
_OUTCOMES = ("win", "tie", "both_bad", "loss")
_BAD_LINES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Standing:
    """One model's row in the ranking."""

    rank: int
    """Rank by score within the group. Equal scores share a rank."""
    group: int
    """Number of the group, from 1. No battles connect different groups, so their scores are not comparable."""
    model: str
    score: float
    low: float | None
    """Lower end of the 95 % interval. Both ends are None without resamples, or if a side is not bounded."""
    high: float | None
    bounded_below: bool
    """False if this model never beat some other, so the votes do not say how weak it may be."""
    bounded_above: bool
    """False if some model never beat this one, so the votes do not say how strong it may be."""
    battles: int
    wins: int
    ties: int
    both_bad: int
    losses: int
    win_share: float
    """Fraction of battles won, 0 to 1. Ties and both-bad votes are half a win."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The battles between two models, the higher ranked one first."""

    group: int
    first: str
    second: str
    battles: int
    first_wins: int
    ties: int
    both_bad: int
    second_wins: int
    first_share: float
    """Fraction of battles won, 0 to 1. Ties and both-bad votes are half a win."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The content of a report."""

    method: Method
    num_resamples: int
    seed: int
    selection: Selection
    """Which battles were selected."""
    first_vote: str
    """Time of the first vote that counts, ISO 8601, UTC."""
    last_vote: str
    """Time of the last vote that counts, ISO 8601, UTC."""
    num_battles: int
    """Battles that count."""
    standings: tuple[Standing, ...]
    """Group by group, the largest first, and by rank within a group."""
    pairs: tuple[Pair, ...]
    """All pairs that met, in the order of the standings."""
    files: tuple[str, ...]
    num_lines: int
    """Lines read from the files: the sum of num_battles, excluded, other_lines and num_bad_lines."""
    excluded: dict[str, int]
    """Number of battles that do not count, by reason."""
    other_lines: dict[str, int]
    """Number of lines that are not battles, by type."""
    num_bad_lines: int
    bad_lines: tuple[str, ...]
    """The first bad lines: where each one is and what is wrong with it."""
    notes: tuple[str, ...]
    """What readers of the scores must know, a sentence each."""

    def groups(self) -> list[tuple[tuple[Standing, ...], tuple[Pair, ...]]]:
        """Returns the standings and the pairs of each group."""
        numbers = sorted({standing.group for standing in self.standings})
        return [
            (
                tuple(standing for standing in self.standings if standing.group == number),
                tuple(pair for pair in self.pairs if pair.group == number),
            )
            for number in numbers
        ]


def make_ranking(log: VoteLog, selection: Selection, method: Method, *, num_resamples: int, seed: int) -> Ranking:
    """Selects the battles, rates the models and counts what was left out.

    Raises:
        DataError: the log contains no battles, or none that count. The message says why.
    """
    battles, excluded = select(log.battles, selection)
    if not battles:
        raise DataError(_nothing_left(log, excluded))
    groups = rate(_games(battles), method, num_resamples=num_resamples, seed=seed)
    standings = _standings(groups, battles)
    return Ranking(
        method=method,
        num_resamples=num_resamples,
        seed=seed,
        selection=selection,
        first_vote=_moment(battles[0].tstamp),
        last_vote=_moment(battles[-1].tstamp),
        num_battles=len(battles),
        standings=standings,
        pairs=_pairs(standings, battles),
        files=log.files,
        num_lines=log.num_lines,
        excluded=excluded,
        other_lines=log.others,
        num_bad_lines=len(log.bad_lines),
        bad_lines=tuple(map(str, log.bad_lines[:_BAD_LINES_SHOWN])),
        notes=tuple(_notes(groups, battles, num_resamples, selection)),
    )


def _games(battles: Sequence[Battle]) -> Games:
    players = tuple(sorted({model for battle in battles for model in (battle.left, battle.right)}))
    place = {player: index for index, player in enumerate(players)}
    return Games(
        players,
        np.array([place[battle.left] for battle in battles]),
        np.array([place[battle.right] for battle in battles]),
        np.array([_POINTS[battle.vote] for battle in battles]),
    )


def _outcomes(battles: Sequence[Battle]) -> Counter[tuple[str, str, str]]:
    """Returns how often the first model had an outcome against the second, by (first, second, outcome)."""
    words = {
        Vote.LEFT: ("win", "loss"),
        Vote.RIGHT: ("loss", "win"),
        Vote.TIE: ("tie", "tie"),
        Vote.BOTH_BAD: ("both_bad", "both_bad"),
    }
    counts: Counter[tuple[str, str, str]] = Counter()
    for battle in battles:
        left, right = words[battle.vote]
        counts[battle.left, battle.right, left] += 1
        counts[battle.right, battle.left, right] += 1
    return counts


def _standings(groups: Sequence[Group], battles: Sequence[Battle]) -> tuple[Standing, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for (model, _, outcome), count in _outcomes(battles).items():
        counts[model, outcome] += count
    return tuple(
        _standing(_rank(rating, group), number, rating, [counts[rating.player, name] for name in _OUTCOMES])
        for number, group in enumerate(groups, start=1)
        for rating in group.ratings
    )


def _rank(rating: Rating, group: Group) -> int:
    """Returns a rank that equal scores share. Scores are exact to far less than a millionth of a point."""
    return 1 + sum(other.score > rating.score + 1e-6 for other in group.ratings)


def _standing(rank: int, group: int, rating: Rating, counts: Sequence[int]) -> Standing:
    """Makes a row from `counts`, which are in the order of _OUTCOMES."""
    return Standing(
        rank=rank,
        group=group,
        model=rating.player,
        score=rating.score,
        low=rating.low,
        high=rating.high,
        bounded_below=rating.bounded_below,
        bounded_above=rating.bounded_above,
        battles=sum(counts),
        wins=counts[0],
        ties=counts[1],
        both_bad=counts[2],
        losses=counts[3],
        win_share=_share(counts),
    )


def _pairs(standings: Sequence[Standing], battles: Sequence[Battle]) -> tuple[Pair, ...]:
    counts = _outcomes(battles)
    pairs = []
    for index, first in enumerate(standings):
        for second in standings[index + 1 :]:
            met = [counts[first.model, second.model, outcome] for outcome in _OUTCOMES]
            if any(met):
                wins, ties, both_bad, losses = met
                share = _share(met)
                pairs.append(
                    Pair(first.group, first.model, second.model, sum(met), wins, ties, both_bad, losses, share)
                )
    return tuple(pairs)


def _share(counts: Sequence[int]) -> float:
    wins, ties, both_bad, _ = counts
    return (wins + (ties + both_bad) / 2) / sum(counts)


def _notes(groups: Sequence[Group], battles: Sequence[Battle], num_resamples: int, selection: Selection) -> list[str]:
    notes = []
    if len(groups) > 1:
        notes.append(
            f"The models fall into {len(groups)} groups without a battle between them. Scores and ranks of different "
            "groups are not comparable. Votes between their models would join the groups."
        )
    for number, group in enumerate(groups, start=1):
        name = f" in group {number}" if len(groups) > 1 else ""
        notes += _group_notes(group, name, num_resamples)
    unknown = sum(battle.conversation is None for battle in battles)
    if unknown and selection.repeated != "all":
        notes.append(f"Battles without a conversation id: {unknown}. Repeated votes among them all count.")
    return notes


def _group_notes(group: Group, name: str, num_resamples: int) -> list[str]:
    notes = []
    strong = [rating.player for rating in group.ratings if not rating.bounded_above]
    weak = [rating.player for rating in group.ratings if not rating.bounded_below]
    if strong:
        notes.append(
            f"No upper limit{name} for {', '.join(strong)}: some models never beat them, directly or through others."
        )
    if weak:
        notes.append(
            f"No lower limit{name} for {', '.join(weak)}: they never beat some models, directly or through others."
        )
    if group.uses_prior:
        notes.append(
            f"Some scores{name} would be infinite by the votes alone. So one tie is added between two models that met "
            "if only one of them ever beat the other, directly or through others. More votes make this unnecessary."
        )
    elif group.num_resamples_with_prior:
        notes.append(
            f"In {group.num_resamples_with_prior} of {num_resamples} resamples{name} some scores would be infinite, so "
            "one tie was added between models of which only one beat the other. This makes the intervals less exact."
        )
    return notes


def _moment(tstamp: float) -> str:
    return datetime.fromtimestamp(tstamp, timezone.utc).isoformat(timespec="seconds")


def _nothing_left(log: VoteLog, excluded: dict[str, int]) -> str:
    where = ", ".join(log.files)
    if log.battles:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in excluded.items())
        return (
            f"{where}: none of the {len(log.battles)} battles is left to count ({reasons}). "
            "Remove a filter, or collect more votes."
        )
    others = sum(log.others.values())
    broken = f", and {len(log.bad_lines)} that cannot be read (first: {log.bad_lines[0]})" if log.bad_lines else ""
    return f"{where}: no vote between two models ({others} other lines{broken}). {HOW_TO_GET_VOTES}"
