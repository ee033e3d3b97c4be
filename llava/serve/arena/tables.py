"""The arena's ranking as text, Markdown, CSV and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from datetime import datetime, timezone
from typing import Final

from llava.reports.tables import aligned, as_csv, escaped, markdown
from llava.serve.arena.battles import Selection
from llava.serve.arena.ranking import Pair, Ranking, Standing

_METHODS: Final = {
    "bradley-terry": "Bradley-Terry by maximum likelihood",
    "elo": "Elo in order of time (K = 4, all begin at 1000)",
}
_COUNTS: Final = ("battles", "wins", "ties", "both bad", "losses", "win share")
_STANDING_HEAD: Final = ("rank", "model", "score", "95 % interval", *_COUNTS)
_PAIR_HEAD: Final = ("model", "against", *_COUNTS)


def as_text(ranking: Ranking) -> str:
    """For a terminal."""
    parts = [_title(ranking), _method(ranking)]
    for name, standings, pairs in _named_groups(ranking):
        parts += [name] if name else []
        parts.append(aligned(_STANDING_HEAD, [_standing_cells(standing) for standing in standings], {1}))
        parts.append(aligned(_PAIR_HEAD, [_pair_cells(pair) for pair in pairs], {0, 1}))
    parts += ["\n".join([name, *(f"  {line}" for line in lines)]) for name, lines in _sections(ranking)]
    return "\n\n".join(parts)


def as_markdown(ranking: Ranking, plot: str | None = None) -> str:
    """A page with the same content.

    Args:
        plot: the name of an image of the scores that lies beside the page.
    """
    parts = [f"# {_title(ranking)}", _method(ranking)]
    parts += [f"![Scores with their intervals]({plot})"] if plot else []
    for name, standings, pairs in _named_groups(ranking):
        parts += [f"## {name}"] if name else []
        parts.append(markdown(_STANDING_HEAD, [_standing_cells(standing) for standing in standings], {1}))
        parts.append(markdown(_PAIR_HEAD, [_pair_cells(pair) for pair in pairs], {0, 1}))
    for name, lines in _sections(ranking):
        parts += [f"## {name}", "\n".join(f"- {escaped(line)}" for line in lines)]
    return "\n\n".join(parts)


def as_json(ranking: Ranking) -> str:
    """Every field of the ranking, numbers unrounded."""
    return json.dumps(asdict(ranking), indent=2, ensure_ascii=False)


def standings_csv(ranking: Ranking) -> str:
    """A line a model; numbers unrounded, limits empty where there are none."""
    return as_csv([field.name for field in fields(Standing)], [asdict(standing) for standing in ranking.standings])


def pairs_csv(ranking: Ranking) -> str:
    """A line a pair of models that met."""
    return as_csv([field.name for field in fields(Pair)], [asdict(pair) for pair in ranking.pairs])


def remarks(ranking: Ranking) -> list[str]:
    """What was left out and what has to be known: for where a format has no room for it."""
    return [*_counted(ranking), *ranking.notes]


def _title(ranking: Ranking) -> str:
    models = len(ranking.standings)
    days = " to ".join(dict.fromkeys((ranking.first_vote[:10], ranking.last_vote[:10])))
    return f"Arena: {_many(ranking.num_battles, 'battle')} of {models} models, {days} (UTC)"


def _method(ranking: Ranking) -> str:
    interval = (
        f"intervals hold 95 % of {ranking.num_resamples:,} resamples (seed {ranking.seed})"
        if ranking.num_resamples
        else "no intervals (--bootstrap 0)"
    )
    return (
        f"{_METHODS[ranking.method]}; ties and both-bad votes are half a win each; "
        f"400 points are odds of 10 to 1, 1000 is the middle; {interval}."
    )


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _named_groups(ranking: Ranking) -> list[tuple[str, tuple[Standing, ...], tuple[Pair, ...]]]:
    """With a heading each; an empty one where there is one group only."""
    groups = ranking.groups()
    return [(f"Group {number}" if len(groups) > 1 else "", *group) for number, group in enumerate(groups, start=1)]


def _standing_cells(standing: Standing) -> tuple[str, ...]:
    return (
        str(standing.rank),
        standing.model,
        f"{standing.score:.0f}",
        _interval(standing),
        *_count_cells(standing.battles, standing.wins, standing.ties, standing.both_bad, standing.losses),
        f"{100 * standing.win_share:.1f} %",
    )


def _pair_cells(pair: Pair) -> tuple[str, ...]:
    return (
        pair.first,
        pair.second,
        *_count_cells(pair.battles, pair.first_wins, pair.ties, pair.both_bad, pair.second_wins),
        f"{100 * pair.first_share:.1f} %",
    )


def _count_cells(*counts: int) -> tuple[str, ...]:
    return tuple(f"{count:,}" for count in counts)


def _interval(standing: Standing) -> str:
    """`980 to 1020`, or why there is none; empty without resamples."""
    if standing.low is not None and standing.high is not None:
        return f"{standing.low:.0f} to {standing.high:.0f}"
    bounds = {(True, False): "no upper limit", (False, True): "no lower limit", (False, False): "no limits"}
    return bounds.get((standing.bounded_below, standing.bounded_above), "")


def _counted(ranking: Ranking) -> list[str]:
    others = sum(ranking.other_lines.values())
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in ranking.other_lines.items())
    lines = [f"Chosen: {_chosen(ranking.selection)}"]
    lines.append(f"{_many(ranking.num_lines, 'line')} read, in {_many(len(ranking.files), 'file')}")
    lines.append(f"{_many(ranking.num_battles, 'battle')} counted")
    lines += [f"{_many(others, 'line')} without a battle ({kinds})"] if others else []
    lines += [f"{_many(count, 'battle')} left out: {reason}" for reason, count in ranking.excluded.items()]
    if ranking.num_bad_lines:
        lines.append(f"{_many(ranking.num_bad_lines, 'line')} left out, for what is wrong with them:")
        lines += ranking.bad_lines
        more = ranking.num_bad_lines - len(ranking.bad_lines)
        lines += [f"and {more:,} more"] if more else []
    return lines


def _chosen(selection: Selection) -> str:
    parts = [
        {"all": "anonymous and named votes", "anonymous": "anonymous votes", "named": "named votes"}[selection.names],
        {
            "first": "the first vote of a conversation",
            "last": "the last vote of a conversation",
            "all": "all votes of a conversation",
        }[selection.repeated],
    ]
    if selection.since_s is not None:
        parts.append(f"from {_day(selection.since_s)} on")
    if selection.until_s is not None:
        parts.append(f"before {_day(selection.until_s)}")
    if selection.min_votes:
        parts.append(f"models with {selection.min_votes:,} votes or more")
    return ", ".join(parts)


def _day(tstamp: float) -> str:
    return datetime.fromtimestamp(tstamp, timezone.utc).strftime("%Y-%m-%d")


def _sections(ranking: Ranking) -> list[tuple[str, list[str]]]:
    sections = [("What was counted", _counted(ranking)), ("What to know", list(ranking.notes))]
    return [(name, lines) for name, lines in sections if lines]
