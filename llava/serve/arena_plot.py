"""A picture of the arena's scores: a line a model, a point at its score, a bar over its interval."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from llava.serve.arena_ranking import Ranking, Standing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOUR: Final = "#1f5a96"
_ROW_INCHES: Final = 0.32
_FRAME_INCHES: Final = 1.0
_ARROW: Final = 0.06
"""Length of an arrow, as a part of the width of the scores."""


def draw(ranking: Ranking, kind: str) -> bytes:
    """The picture as a file of `kind`, `svg` or `png`; the same bytes for the same ranking.

    Each group of models that is connected by battles has axes of its own, since scores of two groups do not compare.
    A side of a score that the votes do not bound has an arrow in place of a bar.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    groups = [standings for standings, _ in ranking.groups()]
    heights = [_FRAME_INCHES + _ROW_INCHES * len(standings) for standings in groups]
    # As text and not as outlines, an SVG's words can be searched and read aloud, and no font has to be put into it.
    # A user's own style may ask for anything, LaTeX included.
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "arena"}]):
        figure = Figure(figsize=(8, sum(heights)), layout="constrained")
        axes = figure.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]
        for number, (standings, panel) in enumerate(zip(groups, axes, strict=True), start=1):
            _draw_group(panel, standings)
            if len(groups) > 1:
                panel.set_title(f"Group {number}", loc="left", fontsize=10)
        axes[-1].set_xlabel(_axis_label(ranking))
        return _saved(figure, kind)


def _saved(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        if kind == "svg":  # whoever shows it has fonts of their own; only a PNG lacks the letters that ours lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(content, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def _axis_label(ranking: Ranking) -> str:
    method = {"bradley-terry": "Bradley-Terry score", "elo": "Elo score"}[ranking.method]
    return f"{method}, bars hold 95 % of the resamples" if ranking.num_resamples else method


def _draw_group(panel: Axes, standings: Sequence[Standing]) -> None:
    rows = range(len(standings))
    known = [value for s in standings for value in (s.score, s.low, s.high) if value is not None]
    arrow = _ARROW * max(max(known) - min(known), 100.0)
    for row, standing in enumerate(standings):
        if standing.low is not None and standing.high is not None:
            panel.plot([standing.low, standing.high], [row, row], color=_COLOUR, linewidth=2, solid_capstyle="butt")
        if not standing.bounded_below:
            _arrow(panel, row, standing.score, standing.score - arrow)
        if not standing.bounded_above:
            _arrow(panel, row, standing.score, standing.score + arrow)
    panel.plot([standing.score for standing in standings], rows, "o", color=_COLOUR, markersize=6)
    panel.set_yticks(rows, [standing.model for standing in standings], parse_math=False)
    panel.set_ylim(len(standings) - 0.5, -0.5)
    panel.margins(x=0.05)
    panel.grid(axis="x", color="#dddddd")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _arrow(panel: Axes, row: int, start: float, end: float) -> None:
    panel.plot([start, end], [row, row], color=_COLOUR, linewidth=2, linestyle=(0, (1, 1)))
    panel.plot([end], [row], marker="<" if end < start else ">", color=_COLOUR, markersize=7)
