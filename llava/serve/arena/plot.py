"""Plots the arena's scores: one row per model, a point at its score and a bar over its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from llava.reports.plots import COLOUR, FRAME_INCHES, ROW_INCHES, draw_bar, draw_rows, plain_style, saved
from llava.serve.arena.ranking import Ranking, Standing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ARROW: Final = 0.06
"""Length of an arrow, as a fraction of the range of the scores."""


def draw(ranking: Ranking, kind: str) -> bytes:
    """Returns the plot as a file of `kind`, `svg` or `png`: the same bytes for the same ranking.

    Each group of models that battles connect has its own axes because scores of different groups are not comparable.
    An arrow marks a side on which the votes do not bound the score.
    """
    from matplotlib.figure import Figure

    groups = [standings for standings, _ in ranking.groups()]
    heights = [FRAME_INCHES + ROW_INCHES * len(standings) for standings in groups]
    with plain_style():
        figure = Figure(figsize=(8, sum(heights)), layout="constrained")
        axes = figure.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]
        for number, (standings, panel) in enumerate(zip(groups, axes, strict=True), start=1):
            _draw_group(panel, standings)
            if len(groups) > 1:
                panel.set_title(f"Group {number}", loc="left", fontsize=10)
        axes[-1].set_xlabel(_axis_label(ranking))
        return saved(figure, kind)


def _axis_label(ranking: Ranking) -> str:
    method = {"bradley-terry": "Bradley-Terry score", "elo": "Elo score"}[ranking.method]
    return f"{method}, bars cover 95 % of the resamples" if ranking.num_resamples else method


def _draw_group(panel: Axes, standings: Sequence[Standing]) -> None:
    known = [value for s in standings for value in (s.score, s.low, s.high) if value is not None]
    arrow = _ARROW * max(max(known) - min(known), 100.0)
    for row, standing in enumerate(standings):
        draw_bar(panel, row, standing.low, standing.high)
        if not standing.bounded_below:
            _arrow(panel, row, standing.score, standing.score - arrow)
        if not standing.bounded_above:
            _arrow(panel, row, standing.score, standing.score + arrow)
    draw_rows(panel, [standing.model for standing in standings], [standing.score for standing in standings])


def _arrow(panel: Axes, row: int, start: float, end: float) -> None:
    panel.plot([start, end], [row, row], color=COLOUR, linewidth=2, linestyle=(0, (1, 1)))
    panel.plot([end], [row], marker="<" if end < start else ">", color=COLOUR, markersize=7)
