"""Figures of GPT reviews: relative scores by category, with intervals, and the differences between models.

    python -m llava.eval.summarize_gpt_review -f review-a.json review-b.json --output summary

Without a file or folder it looks where the original's commands put reviews, and says where it looked. Reviews without
scores are in no figure and are counted. Intervals are taken over images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
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
    parser.add_argument("-d", "--dir", metavar="DIR", help="folder of reviews")
    parser.add_argument("-f", "--files", nargs="*", default=[], metavar="FILE", help="files of reviews, JSON Lines")
    parser.add_argument(
        "-s", "--select", nargs="*", metavar="TEXT", help="only files whose names hold all of these (default: all)"
    )
    parser.add_argument("-v", "--version", metavar="TEXT", help="only files of this judge, such as 0314 (default: all)")
    parser.add_argument("-i", "--ignore", nargs="*", default=[], metavar="ID", help="questions that do not count")
    parser.add_argument(
        "--question",
        metavar="FILE",
        help="the question file, which says what image a question is about where reviews do not",
    )
    parser.add_argument("--bootstrap", type=int, default=2000, metavar="N", help="resamples for intervals (2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resampling (default: 0)")
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown", "csv", "original"),
        default="text",
        help="of standard output; `original`: the lines that the original prints (default: text)",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="also write summary.json, .md, .csv, summary-differences.csv and a plot there (default: nothing)",
    )
    parser.add_argument("--plot", choices=("svg", "png"), default="svg", help="format of the plot (default: svg)")


def main(args: argparse.Namespace) -> int:
    if args.bootstrap < 0 or args.seed < 0:
        raise InvalidRequest("--bootstrap and --seed are numbers from 0.")
    reviews = _chosen(args)

    from llava.eval.reviews import tables
    from llava.reports.output import in_form

    summary = _summary(reviews, args)
    if args.output:
        _write(summary, Path(args.output), args.plot)
    if args.format in ("csv", "original"):
        form = tables.figures_csv if args.format == "csv" else tables.as_original
        print(form(summary).rstrip("\n"))
        for note in summary.notes:
            print(f"note: {note}", file=sys.stderr)
    else:
        print(in_form(summary, args.format, tables))
    return DONE


def _chosen(args: argparse.Namespace) -> list[Reviews]:
    """The files that the flags name, each judge's reviews by themselves.

    Raises:
        DataError: there is none; says what was looked for.
    """
    from llava.eval.reviews.reader import config_name, is_judged_by, read_reviews

    paths = _paths(args)
    named = [path for path in paths if all(text in config_name(path) for text in args.select or [])]
    if not named:
        raise DataError(f"--select: none of {len(paths)} files is called so: {', '.join(map(config_name, paths))}.")
    read = [read_reviews(path) for path in named]
    chosen = [one for one in read if args.version is None or is_judged_by(one, args.version)]
    if not chosen:
        judges = sorted({judge for one in read for judge in one.judges}) or ["0314 (0613 where the name says so)"]
        raise DataError(
            f"--version {args.version}: none of {len(read)} files is of this judge. There are: {', '.join(judges)}."
        )
    ignored = {str(identity).strip() for identity in args.ignore}
    return [part for one in chosen for part in _by_judge(one, ignored, args.version)]


def _by_judge(reviews: Reviews, ignored: set[str], version: str | None) -> Iterator[Reviews]:
    from dataclasses import replace

    named = [judge for judge in reviews.judges if version is None or version in judge]
    judges: list[str | None] = [*named] or [None]
    for judge in judges:
        kept = [
            review
            for review in reviews.reviews
            if review.question_id not in ignored and (judge is None or review.judge in (judge, None))
        ]
        if not kept:
            raise DataError(f"{reviews.path}: --ignore leaves nothing of it.")
        name = f"{reviews.name} by {judge}" if len(reviews.judges) > 1 else reviews.name
        yield replace(reviews, name=name, reviews=tuple(kept))


def _paths(args: argparse.Namespace) -> list[Path]:
    if args.files:
        # The original reads --files below --dir.
        below = Path(args.dir) if args.dir else None
        return [below / file if below and (below / file).exists() else locate(file) for file in args.files]
    if args.dir:
        folder = locate(args.dir)
        found = _matching(folder, ("*.jsonl",)) or _matching(folder, _HERE)
        if not found:
            raise DataError(f"{folder}: no *.jsonl or review*.json here. Name the files with -f.")
        return found
    looked = [*((folder / ORIGINALS_FOLDER, _IN_ORIGINALS) for folder in _roots()), (Path(), _HERE)]
    for folder, patterns in looked:
        if found := _matching(folder, patterns):
            print(f"note: reading {', '.join(map(str, found))}", file=sys.stderr)
            return found
    places = "; ".join(f"{' or '.join(patterns)} in {folder.resolve()}" for folder, patterns in looked)
    raise DataError(f"no reviews found. Looked for {places}. Name them with -f FILE, or their folder with -d DIR.")


def _roots() -> list[Path]:
    return list(dict.fromkeys(folder.resolve() for folder in (Path(), REPOSITORY, EVAL_FOLDER)))


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if _is_reviews(path)})


def _is_reviews(path: Path) -> bool:
    """Not the memory of a batch, nor what a service has sent."""
    return path.is_file() and not path.name.endswith(".batch.json") and not path.name.startswith("batch_")


def _summary(reviews: list[Reviews], args: argparse.Namespace) -> Summary:
    from llava.eval.reviews.figures import Bootstrap, differences, model_figures, score
    from llava.eval.reviews.tables import Summary, notes

    images = {}
    if args.question:
        lines = read_questions(locate(args.question)).lines
        images = {i: str(line.record["image"]) for i, line in lines.items() if line.record.get("image")}
    bootstrap = Bootstrap(args.bootstrap, args.seed, images)
    names = _names(reviews)
    models = [model_figures(one, name, bootstrap) for one, name in zip(reviews, names, strict=True)]
    scored = [
        (name, score([review for review in one.reviews if review.scores], bootstrap))
        for one, name in zip(reviews, names, strict=True)
    ]
    if not any(model.figures for model in models):
        raise DataError(f"{', '.join(str(one.path) for one in reviews)}: no review has scores.")
    found = notes(models, {str(one.path): one.repeated for one in reviews})
    if args.bootstrap and not any(group.startswith("image") for _, one in scored for group in one.groups):
        found.append("No review says what image it is about, so questions were resampled. --question FILE tells.")
    return Summary(tuple(models), tuple(differences(scored, bootstrap)), args.bootstrap, args.seed, tuple(found))


def _names(reviews: list[Reviews]) -> list[str]:
    """Of files that are called the same, the paths."""
    names = [one.name for one in reviews]
    return [str(one.path) if names.count(one.name) > 1 else one.name for one in reviews]


def _write(summary: Summary, folder: Path, plot: str) -> None:
    from llava.eval.reviews import tables
    from llava.eval.reviews.plot import draw
    from llava.reports.output import write_report

    csvs = {
        "summary.csv": tables.figures_csv,
        "summary-differences.csv": tables.differences_csv,
    }
    write_report(summary, folder, "summary", tables=tables, csvs=csvs, draw=draw, plot=plot)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
