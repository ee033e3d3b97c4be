"""Summarizes GPT reviews: relative scores by category, with intervals, and the differences between models.

    python -m llava.eval.summarize_gpt_review -f review-a.json review-b.json --output summary

Without files or a folder, it searches the places where the original's commands put reviews, and names what it reads.
Reviews without scores are listed and not counted. Intervals are taken over images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import DONE, run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import EVAL_FOLDER, REPOSITORY, locate, read_questions

if TYPE_CHECKING:
    from llava.eval.reviews.reader import Reviews
    from llava.eval.reviews.tables import Summary

ORIGINALS_FOLDER = Path("vqa/reviews/coco2014_val80")
_IN_ORIGINALS = ("gpt4_text*.jsonl",)
_HERE = ("gpt4_text*.jsonl", "review*.json", "review*.jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--dir", metavar="DIR", help="Folder of review files.")
    parser.add_argument("-f", "--files", nargs="*", default=[], metavar="FILE", help="Review files (JSON Lines).")
    parser.add_argument(
        "-s",
        "--select",
        nargs="*",
        default=[],
        metavar="TEXT",
        help="Read only files whose names contain all of these texts (default: all files).",
    )
    parser.add_argument(
        "-v", "--version", metavar="TEXT", help="Read only reviews of this judge, such as 0314 (default: all judges)."
    )
    parser.add_argument("-i", "--ignore", nargs="*", default=[], metavar="ID", help="Ids of questions to leave out.")
    parser.add_argument(
        "--question",
        metavar="FILE",
        help="Question file (JSON Lines). It names the image of each question for reviews that do not.",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=2000,
        metavar="N",
        help="Number of resamples for the intervals; 0 for no intervals (default: 2000).",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Random seed of the resampling (default: 0).")
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown", "csv", "original"),
        default="text",
        help="Format of the summary on standard output; `original` prints the original's lines (default: text).",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="Folder that also gets summary.json, summary.md, summary.csv, summary-differences.csv and a plot.",
    )
    parser.add_argument("--plot", choices=("svg", "png"), default="svg", help="Format of the plot (default: svg).")


@dataclass(frozen=True, slots=True)
class SummarySettings:
    """Which reviews to summarize, and how to report them."""

    directory: Path | None
    """Folder of review files; also the folder that relative `files` are looked for in first."""
    files: tuple[str, ...]
    """Review files; empty for all files of the folder."""
    select: tuple[str, ...]
    """Texts that the name of a file must contain."""
    version: str | None
    """Part of the judge's name; None for all judges."""
    ignored: frozenset[str]
    """Ids of questions that do not count."""
    question_file: str | None
    """Question file that names the images of questions."""
    num_resamples: int
    """Bootstrap resamples for the intervals; 0 for no intervals."""
    seed: int
    """Random seed of the resampling."""
    form: str
    """Format on standard output: `text`, `json`, `markdown`, `csv` or `original`."""
    folder: Path | None
    """Folder for the summary in every format; None writes no files."""
    plot: str
    """Format of the plot: `svg` or `png`."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> SummarySettings:
        """
        Raises:
            InvalidRequest: --bootstrap or --seed is negative.
        """
        if args.bootstrap < 0 or args.seed < 0:
            raise InvalidRequest("--bootstrap and --seed must be 0 or more.")
        return cls(
            directory=Path(args.dir) if args.dir else None,
            files=tuple(args.files),
            select=tuple(args.select),
            version=args.version,
            ignored=frozenset(str(identity).strip() for identity in args.ignore),
            question_file=args.question,
            num_resamples=args.bootstrap,
            seed=args.seed,
            form=args.format,
            folder=Path(args.output) if args.output else None,
            plot=args.plot,
        )


def main(args: argparse.Namespace) -> int:
    settings = SummarySettings.from_args(args)
    reviews = _chosen(settings)

    from llava.eval.reviews.plot import draw
    from llava.eval.reviews.tables import as_original, document_of
    from llava.reports.output import write_report
    from llava.reports.rendering import rendered

    summary = _summary(reviews, settings)
    document = document_of(summary)
    if settings.folder:
        write_report(document, settings.folder, "summary", draw=lambda kind: draw(summary, kind), plot=settings.plot)
    print(as_original(summary) if settings.form == "original" else rendered(document, settings.form))
    if settings.form in ("csv", "original"):
        for note in summary.notes:
            print(f"note: {note}", file=sys.stderr)
    return DONE


def _chosen(settings: SummarySettings) -> list[Reviews]:
    """Reads the files that the settings choose, with the reviews of each judge apart.

    Raises:
        DataError: there are none. The message says what was looked for.
    """
    from llava.eval.reviews.reader import config_name, is_judged_by, read_reviews

    paths = _paths(settings)
    named = [path for path in paths if all(text in config_name(path) for text in settings.select)]
    if not named:
        raise DataError(
            f"--select: none of the {len(paths)} files has a matching name: {', '.join(map(config_name, paths))}."
        )
    read = [read_reviews(path) for path in named]
    chosen = [one for one in read if settings.version is None or is_judged_by(one, settings.version)]
    if not chosen:
        judges = sorted({judge for one in read for judge in one.judges}) or ["0314 (0613 if the file's name says so)"]
        raise DataError(
            f"--version {settings.version}: none of the {len(read)} files is by this judge. "
            f"The judges are: {', '.join(judges)}."
        )
    return [part for one in chosen for part in _by_judge(one, settings)]


def _by_judge(reviews: Reviews, settings: SummarySettings) -> Iterator[Reviews]:
    named = [judge for judge in reviews.judges if settings.version is None or settings.version in judge]
    judges: list[str | None] = [*named] or [None]
    for judge in judges:
        kept = [
            review
            for review in reviews.reviews
            if review.question_id not in settings.ignored and (judge is None or review.judge in (judge, None))
        ]
        if not kept:
            raise DataError(f"{reviews.path}: --ignore leaves no reviews.")
        name = f"{reviews.name} by {judge}" if len(reviews.judges) > 1 else reviews.name
        yield replace(reviews, name=name, reviews=tuple(kept))


def _paths(settings: SummarySettings) -> list[Path]:
    folder = settings.directory
    if settings.files:
        # The original looks for --files in --dir.
        return [folder / file if folder and (folder / file).exists() else locate(file) for file in settings.files]
    if folder:
        folder = locate(folder)
        found = _matching(folder, ("*.jsonl",)) or _matching(folder, _HERE)
        if not found:
            raise DataError(f"{folder}: contains no *.jsonl or review*.json. Name the files with -f.")
        return found
    return _found_where_commands_write()


def _found_where_commands_write() -> list[Path]:
    roots = dict.fromkeys(folder.resolve() for folder in (Path(), REPOSITORY, EVAL_FOLDER))
    looked = [*((folder / ORIGINALS_FOLDER, _IN_ORIGINALS) for folder in roots), (Path(), _HERE)]
    for folder, patterns in looked:
        if found := _matching(folder, patterns):
            print(f"note: reading {', '.join(map(str, found))}", file=sys.stderr)
            return found
    places = "; ".join(f"{' or '.join(patterns)} in {folder.resolve()}" for folder, patterns in looked)
    raise DataError(f"no reviews found. Looked for {places}. Name them with -f FILE, or their folder with -d DIR.")


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if _is_reviews(path)})


def _is_reviews(path: Path) -> bool:
    """Excludes the state files of batches and the files that a batch service has sent."""
    return path.is_file() and not path.name.endswith(".batch.json") and not path.name.startswith("batch_")


def _summary(reviews: list[Reviews], settings: SummarySettings) -> Summary:
    from llava.eval.reviews.figures import Bootstrap, differences, model_figures, score
    from llava.eval.reviews.tables import Summary, notes

    bootstrap = Bootstrap(settings.num_resamples, settings.seed, _images(settings.question_file))
    names = _names(reviews)
    models = [model_figures(one, name, bootstrap) for one, name in zip(reviews, names, strict=True)]
    if not any(model.figures for model in models):
        raise DataError(f"{', '.join(str(one.path) for one in reviews)}: no review has scores.")
    scored = [
        (name, score([review for review in one.reviews if review.scores], bootstrap))
        for one, name in zip(reviews, names, strict=True)
    ]
    found = notes(models, {str(one.path): one.repeated for one in reviews})
    if settings.num_resamples and not any(group.startswith("image") for _, one in scored for group in one.groups):
        found.append("No review names its image, so questions were resampled. Name the images with --question FILE.")
    return Summary(
        tuple(models), tuple(differences(scored, bootstrap)), settings.num_resamples, settings.seed, tuple(found)
    )


def _images(question_file: str | None) -> dict[str, str]:
    """Returns the image of each question, by id, as far as the file names it."""
    if question_file is None:
        return {}
    lines = read_questions(locate(question_file)).lines
    return {identity: str(line.record["image"]) for identity, line in lines.items() if line.record.get("image")}


def _names(reviews: list[Reviews]) -> list[str]:
    """Returns what the figures of each file are called: its name, or its path if several files share the name."""
    names = [one.name for one in reviews]
    return [str(one.path) if names.count(one.name) > 1 else one.name for one in reviews]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
