"""Writes a report as a folder of files in every form, with its plot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llava.files.json_files import write_files
from llava.reports.document import Document
from llava.reports.rendering import as_csv, as_json, as_markdown


def write_report(document: Document, folder: Path, stem: str, *, draw: Callable[[str], bytes], plot: str) -> None:
    """Writes STEM.json, the CSV files, STEM.md and STEM.svg or STEM.png, and names them on standard error.

    Everything is rendered before anything is written, so the folder never contains half of a report.

    Args:
        draw: returns the plot as a file of the given format.
        plot: format of the plot, `svg` or `png`.

    Raises:
        InvalidRequest: `folder` is a file.
    """
    image = f"{stem}.{plot}"
    texts = {
        f"{stem}.json": as_json(document) + "\n",
        **{f"{stem}{ending}.csv": as_csv(table) for ending, table in document.csv.items()},
        f"{stem}.md": as_markdown(document, image) + "\n",
    }
    write_files(folder, {name: text.encode() for name, text in texts.items()} | {image: draw(plot)})
