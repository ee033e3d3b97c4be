"""How commands give a report: on standard output in one of several forms, and as a folder of files with a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from llava.files.json_files import write_files

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Tables(Protocol[T_contra]):
    """The forms of a report; a module of functions is one."""

    def as_text(self, report: T_contra, /) -> str: ...
    def as_json(self, report: T_contra, /) -> str: ...
    def as_markdown(self, report: T_contra, plot: str | None = None, /) -> str: ...


def in_form(report: T, form: str, tables: Tables[T]) -> str:
    """A report as `text`, `json` or `markdown`."""
    forms = {"text": tables.as_text, "json": tables.as_json, "markdown": tables.as_markdown}
    return forms[form](report)


def write_report(
    report: T,
    folder: Path,
    stem: str,
    *,
    tables: Tables[T],
    csvs: Mapping[str, Callable[[T], str]],
    draw: Callable[[T, str], bytes],
    plot: str,
) -> None:
    """Writes STEM.json, the CSVs, STEM.md and STEM.svg or .png, and says so on standard error.

    Makes everything before it writes anything, so that a folder holds no half of a report.

    Args:
        csvs: file names, and what makes each.
        draw: makes the image of a report in the format `plot`, `svg` or `png`.

    Raises:
        InvalidRequest: `folder` is a file.
    """
    image = f"{stem}.{plot}"
    texts = {
        f"{stem}.json": tables.as_json(report) + "\n",
        **{name: as_csv(report) for name, as_csv in csvs.items()},
        f"{stem}.md": tables.as_markdown(report, image) + "\n",
    }
    write_files(folder, {name: text.encode() for name, text in texts.items()} | {image: draw(report, plot)})
