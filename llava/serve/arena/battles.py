"""Which of the arena's battles count, and how many were left out for which reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from llava.serve.arena.vote_log import Battle


@dataclass(frozen=True, slots=True)
class Selection:
    """What a report is about. The defaults take every battle, but each conversation once."""

    names: str = "all"
    """`all`; `anonymous` or `named`: only votes given while the models' names were hidden, or shown."""
    repeated: str = "first"
    """`first`, `last`, `all`: which votes count where one conversation was voted on again."""
    since_s: float | None = None
    """The first moment that counts, in seconds since 1970."""
    until_s: float | None = None
    """The first moment that does not count any more."""
    min_votes: int = 0
    """Battles that a model must have in the report; battles with other models are left out."""


def select(battles: Sequence[Battle], selection: Selection) -> tuple[list[Battle], dict[str, int]]:
    """The battles that count, in their order, and how many were left out by reason; reasons without any are not named.

    Repeated votes are found before anything is chosen by date or by names. So the anonymous vote of a conversation
    stays the one that counts, whatever was voted once its names were shown, and reports about single months add up to
    the report about all of them.
    """
    excluded: Counter[str] = Counter()

    def keep(reason: str, battles: Iterable[Battle], wanted: Callable[[Battle], bool]) -> list[Battle]:
        kept = []
        for battle in battles:
            if wanted(battle):
                kept.append(battle)
            else:
                excluded[reason] += 1
        return kept

    kept = keep("the same model on both sides", battles, lambda battle: battle.left != battle.right)
    once = _once(kept, selection.repeated)
    excluded["further votes on the same conversation"] += len(kept) - len(once)
    kept = keep("outside the dates", once, lambda battle: _in_time(battle, selection))
    if selection.names == "anonymous":
        kept = keep("the models' names were shown", kept, lambda battle: battle.anonymous)
    elif selection.names == "named":
        kept = keep("the models' names were hidden", kept, lambda battle: not battle.anonymous)
    frequent = _with_frequent_models(kept, selection.min_votes)
    excluded[f"a model with fewer than {selection.min_votes} votes"] += len(kept) - len(frequent)
    return frequent, {reason: count for reason, count in excluded.items() if count}


def _once(battles: list[Battle], repeated: str) -> list[Battle]:
    if repeated == "all":
        return battles
    chosen: dict[object, Battle] = {}
    for index, battle in enumerate(battles):
        key = battle.conversation or index  # without an id nobody can tell: each counts
        if repeated == "last" or key not in chosen:
            chosen[key] = battle
    return sorted(chosen.values(), key=lambda battle: battle.tstamp)


def _in_time(battle: Battle, selection: Selection) -> bool:
    after = selection.since_s is None or battle.tstamp >= selection.since_s
    return after and (selection.until_s is None or battle.tstamp < selection.until_s)


def _with_frequent_models(battles: list[Battle], min_votes: int) -> list[Battle]:
    """Without a rare model its opponents have fewer battles, so they are counted again until all have enough."""
    while True:
        votes = Counter(model for battle in battles for model in (battle.left, battle.right))
        kept = [battle for battle in battles if min(votes[battle.left], votes[battle.right]) >= min_votes]
        if len(kept) == len(battles):
            return kept
        battles = kept
