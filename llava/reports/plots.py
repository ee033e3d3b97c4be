"""Images of figures with their intervals: a line each, a point at the figure, a bar over its interval."""

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
    """Figures that look the same everywhere and whose files are the same bytes for the same content."""
    from matplotlib import style

    # As text and not as outlines, an SVG's words can be searched and read aloud, and no font has to be put into it.
    # A user's own style may ask for anything, LaTeX included.
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "llava"}]):
        yield


def saved(figure: Figure, kind: str) -> bytes:
    """The file of a figure, `svg` or `png`; within `plain_style`."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        if kind == "svg":  # whoever shows it has fonts of their own; only a PNG lacks the letters that ours lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(content, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def draw_bar(panel: Axes, row: int, low: float | None, high: float | None) -> None:
    """An interval; nothing where there is none."""
    if low is not None and high is not None:
        panel.plot([low, high], [row, row], color=COLOUR, linewidth=2, solid_capstyle="butt")


def draw_rows(panel: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    """The points, a row each from the top, with their names; nothing but the lines of the scale around them."""
    rows = range(len(values))
    panel.plot(values, rows, "o", color=COLOUR, markersize=6)
    panel.set_yticks(rows, names, parse_math=False)
    panel.set_ylim(len(values) - 0.5, -0.5)
    panel.margins(x=0.05)
    panel.grid(axis="x", color="#dddddd")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
