"""Plots relative scores: one panel per category, one row per model, and a bar over each interval."""

from __future__ import annotations

from llava.eval.reviews.tables import Summary
from llava.reports.plots import FRAME_INCHES, ROW_INCHES, draw_bar, draw_rows, plain_style, saved


def draw(summary: Summary, kind: str) -> bytes:
    """Returns the plot as a file of `kind`, `svg` or `png`: the same bytes for the same figures.

    The panels share their scale. A line at 100 marks the reference.
    """
    from matplotlib.figure import Figure

    categories = list(dict.fromkeys(figure.category for model in summary.models for figure in model.figures))
    panels = [
        [
            (model.name, figure)
            for model in summary.models
            for figure in model.figures
            if figure.category == category and figure.relative is not None
        ]
        for category in categories
    ]
    heights = [FRAME_INCHES + ROW_INCHES * len(rows) for rows in panels]
    with plain_style():
        figure = Figure(figsize=(8, sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for category, rows, panel in zip(categories, panels, axes, strict=True):
            for row, (_, one) in enumerate(rows):
                draw_bar(panel, row, one.low, one.high)
            draw_rows(panel, [name for name, _ in rows], [one.relative or 0.0 for _, one in rows])
            panel.axvline(100, color="#888888", linewidth=1, zorder=0)
            panel.set_title(category, loc="left", fontsize=10, parse_math=False)
        axes[-1].set_xlabel("Relative score, % of the reference")
        return saved(figure, kind)
