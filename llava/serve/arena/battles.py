"""Selects the battles that count, and counts the others by the reason why they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from llava.serve.arena.vote_log import Battle


@dataclass(frozen=True, slots=True)
class Selection:
    """Which battles count. The defaults select every battle, but only one per conversation."""

    names: str = "all"
    """`all`, or only the votes given while the model names were hidden (`anonymous`) or shown (`named`)."""
    repeated: str = "first"
    """Which votes count if a conversation was voted on more than once: `first`, `last` or `all`."""
    since_s: float | None = None
    """Start of the period that counts, in seconds since 1970; None for no limit."""
    until_s: float | None = None
    """End of the period that counts, exclusive, in seconds since 1970; None for no limit."""
    min_votes: int = 0
    """Battles that a model needs to be included. Battles of models with fewer are left out."""


def select(battles: Sequence[Battle], selection: Selection) -> tuple[list[Battle], dict[str, int]]:
    """Returns the battles that count, in their order, and the number of the others by reason.

    Repeated votes are removed before battles are selected by date or names. So the anonymous vote of a conversation
    stays the one that counts, whatever was voted after the names were shown, and the reports on single months add up
    to the report on all of them.
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
        key = battle.conversation or index  # without an id repetitions cannot be detected, so every vote counts
        if repeated == "last" or key not in chosen:
            chosen[key] = battle
    return sorted(chosen.values(), key=lambda battle: battle.tstamp)


def _in_time(battle: Battle, selection: Selection) -> bool:
    after = selection.since_s is None or battle.tstamp >= selection.since_s
    return after and (selection.until_s is None or battle.tstamp < selection.until_s)


def _with_frequent_models(battles: list[Battle], min_votes: int) -> list[Battle]:
    """Removes rare models. That leaves their opponents fewer battles, so it repeats until every model has enough."""
    while True:
        votes = Counter(model for battle in battles for model in (battle.left, battle.right))
        kept = [battle for battle in battles if min(votes[battle.left], votes[battle.right]) >= min_votes]
        if len(kept) == len(battles):
            return kept
        battles = kept
