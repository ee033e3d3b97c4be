"""Draws figures with their intervals: one row per figure, a point at its value and a bar over its interval."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR: Final = "#1f5a96"
ROW_INCHES: Final = 0.32
FRAME_INCHES: Final = 1.0


@contextmanager
def plain_style() -> Iterator[None]:
    """Makes plots look the same everywhere, and their files the same bytes for the same content."""
    from matplotlib import style

    # Words that are text instead of outlines can be searched and read aloud, and the SVG needs no embedded font.
    # The default style comes first because the user's own may ask for anything, even LaTeX.
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "llava"}]):
        yield


def saved(figure: Figure, kind: str) -> bytes:
    """Returns a figure as a file of `kind`, `svg` or `png`. Call it inside `plain_style`."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        if kind == "svg":  # the viewer's fonts have the glyphs that ours lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(content, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def draw_bar(panel: Axes, row: int, low: float | None, high: float | None) -> None:
    """Draws the bar of an interval, if there is one."""
    if low is not None and high is not None:
        panel.plot([low, high], [row, row], color=COLOUR, linewidth=2, solid_capstyle="butt")


def draw_rows(panel: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    """Draws named points, one row each from the top, and a grid but no frame."""
    rows = range(len(values))
    panel.plot(values, rows, "o", color=COLOUR, markersize=6)
    panel.set_yticks(rows, names, parse_math=False)
    panel.set_ylim(len(values) - 0.5, -0.5)
    panel.margins(x=0.05)
    panel.grid(axis="x", color="#dddddd")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
