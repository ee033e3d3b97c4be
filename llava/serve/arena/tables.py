"""Lays the arena's ranking out as a document: standings and pairs of each group, what was counted, and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from typing import Any, Final

from llava.reports.document import Column, Document, Section, Table, number
from llava.serve.arena.battles import Selection
from llava.serve.arena.ranking import Pair, Ranking, Standing

_METHODS: Final = {
    "bradley-terry": "Bradley-Terry by maximum likelihood",
    "elo": "Elo in order of time (K = 4, all begin at 1000)",
}
_NAMES: Final = {"all": "anonymous and named votes", "anonymous": "anonymous votes", "named": "named votes"}
_REPEATED: Final = {
    "first": "the first vote of a conversation",
    "last": "the last vote of a conversation",
    "all": "all votes of a conversation",
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


_COUNTS: Final = tuple(Column(label, format=number(",")) for label in ("battles", "wins", "ties", "both bad", "losses"))
_SHARE: Final = Column("win share", format=_percent)
_STANDING_COLUMNS: Final = (
    Column("rank"),
    Column("model", "left"),
    Column("score", format=number(".0f")),
    Column("95 % interval"),
    *_COUNTS,
    _SHARE,
)
_PAIR_COLUMNS: Final = (Column("model", "left"), Column("against", "left"), *_COUNTS, _SHARE)


def document_of(ranking: Ranking) -> Document:
    """Returns the report on a ranking. Its JSON and CSV contain every field, unrounded."""
    groups = ranking.groups()
    sections = [
        Section(f"Group {place}" if len(groups) > 1 else "", tables=(_standings(standings), _pairs(pairs)))
        for place, (standings, pairs) in enumerate(groups, start=1)
    ]
    sections.append(Section("What was counted", notes=_counted(ranking)))
    if ranking.notes:
        sections.append(Section("What to know", notes=ranking.notes))
    return Document(
        title=_title(ranking),
        introduction=_method(ranking),
        sections=sections,
        data=asdict(ranking),
        csv={"": _all_fields(Standing, ranking.standings), "-pairs": _all_fields(Pair, ranking.pairs)},
        plot_caption="Scores with their intervals",
    )


def remarks(ranking: Ranking) -> list[str]:
    """Returns what was left out and what readers must know, for forms that have no room for it."""
    return [*_counted(ranking), *ranking.notes]


def _all_fields(kind: type, records: Sequence[Any]) -> Table:
    return Table.of_records([field.name for field in fields(kind)], map(asdict, records))


def _standings(standings: Sequence[Standing]) -> Table:
    rows = [
        [
            *(one.rank, one.model, one.score, _interval(one)),
            *(one.battles, one.wins, one.ties, one.both_bad, one.losses, one.win_share),
        ]
        for one in standings
    ]
    return Table(_STANDING_COLUMNS, rows)


def _pairs(pairs: Sequence[Pair]) -> Table:
    rows = [
        [
            *(one.first, one.second),
            *(one.battles, one.first_wins, one.ties, one.both_bad, one.second_wins, one.first_share),
        ]
        for one in pairs
    ]
    return Table(_PAIR_COLUMNS, rows)


def _interval(standing: Standing) -> str:
    """Returns `980 to 1020`, or the reason why there is no interval, or nothing without resamples."""
    if standing.low is not None and standing.high is not None:
        return f"{standing.low:.0f} to {standing.high:.0f}"
    bounds = {(True, False): "no upper limit", (False, True): "no lower limit", (False, False): "no limits"}
    return bounds.get((standing.bounded_below, standing.bounded_above), "")


def _title(ranking: Ranking) -> str:
    models = len(ranking.standings)
    days = " to ".join(dict.fromkeys((ranking.first_vote[:10], ranking.last_vote[:10])))
    return f"Arena: {_many(ranking.num_battles, 'battle')} of {models} models, {days} (UTC)"


def _method(ranking: Ranking) -> str:
    interval = (
        f"intervals cover 95 % of {ranking.num_resamples:,} resamples (seed {ranking.seed})"
        if ranking.num_resamples
        else "no intervals (--bootstrap 0)"
    )
    return (
        f"{_METHODS[ranking.method]}; ties and both-bad votes are half a win each; "
        f"400 points are odds of 10 to 1, 1000 is the middle; {interval}."
    )


def _counted(ranking: Ranking) -> list[str]:
    others = sum(ranking.other_lines.values())
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in ranking.other_lines.items())
    lines = [f"Chosen: {_chosen(ranking.selection)}"]
    lines.append(f"{_many(ranking.num_lines, 'line')} read, in {_many(len(ranking.files), 'file')}")
    lines.append(f"{_many(ranking.num_battles, 'battle')} counted")
    lines += [f"{_many(others, 'line')} without a battle ({kinds})"] if others else []
    lines += [f"{_many(count, 'battle')} left out: {reason}" for reason, count in ranking.excluded.items()]
    if ranking.num_bad_lines:
        lines.append(f"{_many(ranking.num_bad_lines, 'line')} could not be read:")
        lines += ranking.bad_lines
        more = ranking.num_bad_lines - len(ranking.bad_lines)
        lines += [f"and {more:,} more"] if more else []
    return lines


def _chosen(selection: Selection) -> str:
    parts = [_NAMES[selection.names], _REPEATED[selection.repeated]]
    if selection.since_s is not None:
        parts.append(f"from {_day(selection.since_s)} on")
    if selection.until_s is not None:
        parts.append(f"before {_day(selection.until_s)}")
    if selection.min_votes:
        parts.append(f"models with {selection.min_votes:,} votes or more")
    return ", ".join(parts)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _day(tstamp: float) -> str:
    return datetime.fromtimestamp(tstamp, timezone.utc).strftime("%Y-%m-%d")
