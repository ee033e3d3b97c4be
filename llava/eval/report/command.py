"""Lays runs side by side in one page: figures with intervals, plots, and every answer beside its image.

    llava eval report pope-7b.json pope-13b.json --image-folder coco/val2014 --output pope.html

A run is a file that an evaluator or a scorer wrote: answers (JSON Lines), the JSON of a scorer's --output, the
--output-file of eval_science_qa, or reviews (with the files of the reviewed answers beside them). NAME=FILE gives it a
name; the first run is the one that the others are compared with. Answers to ScienceQA are marked here if --base-dir is
given; other answers without marks are shown as such and counted nowhere.

The page opens from disk and needs no network. Answers can be filtered and searched in it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import DONE
from llava.errors import InvalidRequest
from llava.eval.data.records import locate

if TYPE_CHECKING:
    from llava.eval.report.comparison import Comparison
    from llava.eval.report.images import Images
    from llava.eval.report.run import Run

SUFFIXES = {".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown", ".json": "json"}
NAMES = {"html": "report.html", "markdown": "report.md", "json": "report.json"}
STDOUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a file, or NAME=FILE")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where to write, - for standard output; its folder is made (default: report.html)",
    )
    parser.add_argument("--format", choices=tuple(NAMES), help="default: what the name of --output ends in, else html")
    parser.add_argument("--title", help="default: the benchmark and the names of the runs")
    parser.add_argument(
        "--question-file",
        metavar="FILE",
        help="what was asked, and about which image: JSON Lines with question_id, or a JSON list with id",
    )
    parser.add_argument("--image-folder", metavar="DIR", help="where the images are that questions name")
    parser.add_argument("--base-dir", metavar="DIR", help="folder of ScienceQA: answers are marked, images found")
    parser.add_argument("--split", default="test", help="of ScienceQA (default: test)")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--no-images", action="store_true", help="put no images into the page")
    sizes.add_argument(
        "--full-images", action="store_true", help="put images into the page in their own size, not as thumbnails"
    )
    parser.add_argument(
        "--image-megabytes",
        type=_positive,
        metavar="MB",
        help="what all images may take together; thumbnails shrink to fit (default: 12, with --full-images 100)",
    )
    parser.add_argument(
        "--max-answers",
        type=_count,
        metavar="N",
        help="questions shown with their answers; figures are always of all (default: all; in Markdown 20)",
    )


def main(args: argparse.Namespace) -> int:
    output, kind = _target(args)

    from llava.eval.report.comparison import compare, read_asked
    from llava.eval.report.figures import figures_of
    from llava.files.json_files import without_garbage_collection

    question_file = (
        locate(args.question_file, remedy="Give the questions that were asked.") if args.question_file else None
    )
    with without_garbage_collection():
        runs = _runs(args)
        asked = read_asked(question_file) if question_file else None
        comparison = compare(runs, asked, question_file)
        figures = figures_of(comparison)
    read = [f"questions: {question_file}"] if question_file else []
    title = args.title or f"{comparison.benchmark}: {', '.join(run.name for run in runs)}"
    common = {"title": title, "read": read, "max_answers": args.max_answers}
    if kind == "markdown":
        from llava.eval.report.markdown import as_markdown

        text = as_markdown(comparison, figures, **common)
    elif kind == "json":
        import json

        from llava.eval.report.data import as_json

        text = json.dumps(as_json(comparison, figures, **common), indent=1) + "\n"
    else:
        from llava.eval.report.page import as_page

        images = _images(args, comparison)
        read += _told(images)
        text = as_page(comparison, figures, images, **common)
    _write(output, text)
    _tell(runs, comparison, read)
    return DONE


def _target(args: argparse.Namespace) -> tuple[str, str]:
    """Where to write, and in which format."""
    by_name = SUFFIXES.get(Path(args.output or "").suffix.lower())
    kind = args.format or by_name or "html"
    if by_name and by_name != kind:
        raise InvalidRequest(f"--output {args.output}: the name says {by_name}, --format says {kind}. Change one.")
    return args.output or NAMES[kind], kind


def _runs(args: argparse.Namespace) -> list[Run]:
    from llava.eval.report.reviews import lend_answers
    from llava.eval.report.run_reader import named, read_runs, source_of
    from llava.eval.report.science_qa import ScienceQATest

    science_qa = ScienceQATest(args.base_dir, args.split) if args.base_dir else None
    runs = [run for word in args.runs for run in read_runs(source_of(word), science_qa)]
    return named(lend_answers(runs))


def _images(args: argparse.Namespace, comparison: Comparison) -> Images | None:
    """Those of the questions that will be shown."""
    from tqdm import tqdm

    from llava.eval.report.images import embed
    from llava.eval.report.science_qa import ScienceQATest

    questions = comparison.questions[: args.max_answers]
    names = list(dict.fromkeys(question.image for question in questions if question.image))
    if args.no_images or not names:
        return None
    if args.image_folder:
        folder = locate(args.image_folder, remedy="--image-folder takes the folder with the images.")
    elif args.base_dir:
        folder = ScienceQATest(args.base_dir, args.split).images
    else:
        print(f"note: the questions name {len(names)} images; --image-folder shows them", file=sys.stderr)
        return None
    megabytes = args.image_megabytes or (100 if args.full_images else 12)
    return embed(
        names,
        folder,
        full=args.full_images,
        max_bytes=int(megabytes * 1e6),
        progress=lambda words: tqdm(words, desc="images", unit="", leave=False, disable=None, file=sys.stderr),
    )


def _told(images: Images | None) -> list[str]:
    """What became of the images, a sentence each."""
    if images is None:
        return []
    size = "in their own size" if images.side is None else f"at most {images.side} pixels a side"
    told = [f"images: {len(images.uris):,}, {size}"]
    reasons: dict[str, list[str]] = {}
    for name, reason in images.absent.items():
        reasons.setdefault(reason, []).append(name)
    from llava.eval.data.records import some

    return told + [f"images left out: {len(names):,} ({some(names, 3)}): {why}" for why, names in reasons.items()]


def _write(output: str, text: str) -> None:
    from llava.files.json_files import write_text

    if output == STDOUT:
        sys.stdout.write(text)
    else:
        write_text(output, text)


def _tell(runs: list[Run], comparison: Comparison, read: list[str]) -> None:
    for run in runs:
        print(f"{run.name}: {run.content}, {len(run.marks):,} questions, {run.path}", file=sys.stderr)
    for line in read:
        print(line, file=sys.stderr)
    for remark in comparison.remarks:
        print(f"note: {remark}", file=sys.stderr)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of megabytes above 0")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of questions")
    return int(text)
