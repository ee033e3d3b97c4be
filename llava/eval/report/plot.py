"""Draws the plots of a report as SVG that takes the page's colours and fonts and fits any width.

Positions along the scale are percentages of the drawing's width, and everything else is in pixels, so that the same
drawing is readable on a desktop and on a phone. This and dark mode are why no plotting library is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

_SHAPES: Final = (
    "M0-5a5 5 0 1 0 .01 0z",
    "M-4.5-4.5h9v9h-9z",
    "M0-6l6 6-6 6-6-6z",
    "M0-6l5.5 10h-11z",
    "M0 6l5.5-10h-11z",
)
"""Shapes of the points. A run has a shape and a colour, either of which identifies it."""
_LINE: Final = 18
"""Height of a line of text or of a mark, in pixels."""
_GAP: Final = 10
_MARGIN: Final = 3.0
"""Space on either side of the scale, in percent of the width."""


@dataclass(frozen=True)
class Point:
    """One figure with its interval."""

    value: float | None
    low: float | None
    high: float | None
    series: int
    """Number of the run, which determines colour and shape."""
    label: str
    """Text that appears when the pointer rests on the point."""


@dataclass(frozen=True)
class Row:
    """A named group of points."""

    name: str
    points: Sequence[Point]


def intervals(rows: Sequence[Row], *, title: str, zero: bool = False) -> str:
    """Draws points with bars over their intervals, one group of lines per row.

    Args:
        title: what a screen reader reads out. The figures are in a table beside the plot.
        zero: whether the scale includes zero and marks it.
    """
    ticks = _ticks(rows, zero=zero)
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> str:
        return f"{_MARGIN + (100 - 2 * _MARGIN) * (value - low) / (high - low):.3f}%"

    height = sum(_LINE * (1 + len(row.points)) + _GAP for row in rows)
    svg = _drawing(height + _LINE, title)
    for tick in ticks:
        kind = "zero" if zero and tick == 0 else "grid"
        SubElement(svg, "line", {"class": kind, "x1": x(tick), "x2": x(tick), "y1": "0", "y2": str(height)})
        _write(svg, x(tick), height + _LINE - 4, f"{tick:g}".replace("-", "−"), anchor="middle")
    top = 0
    for row in rows:
        _write(svg, f"{_MARGIN}%", top + _LINE - 5, row.name)
        for number, point in enumerate(row.points, start=1):
            if point.value is not None:
                _draw(svg, point, point.value, x, top + _LINE * number + _LINE // 2)
        top += _LINE * (1 + len(row.points)) + _GAP
    return tostring(svg, encoding="unicode")


def shares(rows: Sequence[tuple[str, Sequence[tuple[str, int, str]]]], *, title: str) -> str:
    """Draws one bar per row, divided into parts.

    Args:
        rows: the name of each row and its parts: label, count and CSS class.
        title: what a screen reader reads out.
    """
    svg = _drawing(len(rows) * (2 * _LINE + _GAP), title)
    for number, (name, parts) in enumerate(rows):
        top = number * (2 * _LINE + _GAP)
        _write(svg, f"{_MARGIN}%", top + _LINE - 5, name)
        total = sum(count for _, count, _ in parts) or 1
        start = _MARGIN
        for what, count, kind in parts:
            width = (100 - 2 * _MARGIN) * count / total
            box = {"x": f"{start:.3f}%", "y": str(top + _LINE), "width": f"{width:.3f}%", "height": str(_LINE)}
            bar = SubElement(svg, "rect", {"class": f"part {kind}", **box})
            SubElement(bar, "title").text = f"{what}: {count:,}"
            start += width
    return tostring(svg, encoding="unicode")


def legend_mark(series: int) -> str:
    """Returns the mark of a run for use in a line of text."""
    svg = Element("svg", {"class": "key", "width": "16", "height": "14", "aria-hidden": "true"})
    SubElement(svg, "path", {"class": _series(series), "d": _shape(series), "transform": "translate(8 7)"})
    return tostring(svg, encoding="unicode")


def _drawing(height: int, title: str) -> Element:
    return Element("svg", {"class": "plot", "role": "img", "aria-label": title, "width": "100%", "height": str(height)})


def _draw(svg: Element, point: Point, value: float, x: Callable[[float], str], y: int) -> None:
    group = SubElement(svg, "g", {"class": _series(point.series)})
    SubElement(group, "title").text = point.label
    if point.low is not None and point.high is not None:
        SubElement(group, "line", {"x1": x(point.low), "x2": x(point.high), "y1": str(y), "y2": str(y)})
    mark = SubElement(group, "svg", {"x": x(value), "y": str(y), "overflow": "visible"})
    SubElement(mark, "path", {"d": _shape(point.series)})


def _write(svg: Element, x: str, y: int, text: str, *, anchor: str = "start") -> None:
    SubElement(svg, "text", {"x": x, "y": str(y), "text-anchor": anchor}).text = text


def _series(number: int) -> str:
    return f"series series-{number % len(_SHAPES)}"


def _shape(number: int) -> str:
    return _SHAPES[number % len(_SHAPES)]


def _ticks(rows: Sequence[Row], *, zero: bool) -> list[float]:
    """Returns about five round numbers that span all points and intervals."""
    known = [v for row in rows for p in row.points for v in (p.value, p.low, p.high) if v is not None]
    known += [0.0] if zero or not known else []
    low, high = min(known), max(known)
    rough = max(high - low, 1e-6) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
