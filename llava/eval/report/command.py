"""Shows runs side by side on one page: figures with intervals, plots, and every answer beside its image.

    llava eval report pope-7b.json pope-13b.json --image-folder coco/val2014 --output pope.html

A run is a file that an evaluator or a scorer wrote: answers (JSON Lines), the JSON of a scorer's --output, the
--output-file of eval_science_qa, or reviews (together with the files of the reviewed answers). NAME=FILE names the run.
The other runs are compared with the first. With --base-dir, answers to ScienceQA are marked; other answers without
marks are shown but not counted.

The page opens from disk and needs no network. It can filter and search the answers.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import DONE
from llava.errors import InvalidRequest
from llava.eval.data.records import locate

if TYPE_CHECKING:
    from llava.eval.report.comparison import Comparison
    from llava.eval.report.figures import ReportFigures
    from llava.eval.report.images import Images
    from llava.eval.report.run import EvaluatedRun

SUFFIXES = {".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown", ".json": "json"}
NAMES = {"html": "report.html", "markdown": "report.md", "json": "report.json"}
STDOUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="File of a run, or NAME=FILE.")
    parser.add_argument(
        "--output", metavar="FILE", help="Output file, or - for standard output (default: report.html)."
    )
    parser.add_argument(
        "--format", choices=tuple(NAMES), help="Output format (default: by the ending of --output, else html)."
    )
    parser.add_argument(
        "--title", metavar="TEXT", help="Title of the report (default: the benchmark and the names of the runs)."
    )
    parser.add_argument(
        "--question-file",
        metavar="FILE",
        help="Questions that were asked, with their images: JSON Lines with question_id, or a JSON list with id.",
    )
    parser.add_argument("--image-folder", metavar="DIR", help="Folder of the images that the questions name.")
    parser.add_argument(
        "--base-dir", metavar="DIR", help="Folder of ScienceQA, whose answers are then marked and shown with images."
    )
    parser.add_argument("--split", default="test", metavar="NAME", help="Split of ScienceQA (default: test).")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--no-images", action="store_true", help="Put no images on the page.")
    sizes.add_argument("--full-images", action="store_true", help="Put images on the page in full size.")
    parser.add_argument(
        "--image-megabytes",
        type=_positive,
        metavar="MB",
        help="Size limit for all images together, in MB. Thumbnails shrink to fit (default: 12; 100 with "
        "--full-images).",
    )
    # Earlier spellings, which scripts of users may contain.
    sizes.add_argument("--no-pictures", dest="no_images", action="store_true", help=argparse.SUPPRESS)
    sizes.add_argument("--full-pictures", dest="full_images", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--picture-megabytes", dest="image_megabytes", type=_positive, help=argparse.SUPPRESS)
    parser.add_argument(
        "--max-answers",
        type=_count,
        metavar="N",
        help="Number of questions to show with their answers; figures always cover all (default: all; 20 in Markdown).",
    )


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What to report on, and how."""

    runs: tuple[str, ...]
    """Files of runs, or NAME=FILE."""
    output: str
    """Output file, or `-` for standard output."""
    form: str
    """Output format: `html`, `markdown` or `json`."""
    title: str | None
    """Title of the report; None for the benchmark and the names of the runs."""
    question_file: str | None
    """File of the questions that were asked."""
    image_folder: str | None
    """Folder of the images that the questions name."""
    base_dir: str | None
    """Folder of ScienceQA."""
    split: str
    """Split of ScienceQA."""
    has_images: bool
    """Whether images are put on the page."""
    full_images: bool
    """Whether images keep their full size."""
    max_image_bytes: int
    """Size limit for all images together."""
    max_answers: int | None
    """Number of questions to show with their answers; None for the default of the format."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ReportSettings:
        """
        Raises:
            InvalidRequest: --format contradicts the ending of --output.
        """
        by_name = SUFFIXES.get(Path(args.output or "").suffix.lower())
        form = args.format or by_name or "html"
        if by_name and by_name != form:
            raise InvalidRequest(f"--output {args.output}: the name says {by_name}, --format says {form}. Change one.")
        return cls(
            runs=tuple(args.runs),
            output=args.output or NAMES[form],
            form=form,
            title=args.title,
            question_file=args.question_file,
            image_folder=args.image_folder,
            base_dir=args.base_dir,
            split=args.split,
            has_images=not args.no_images,
            full_images=args.full_images,
            max_image_bytes=int((args.image_megabytes or (100 if args.full_images else 12)) * 1e6),
            max_answers=args.max_answers,
        )


def main(args: argparse.Namespace) -> int:
    settings = ReportSettings.from_args(args)

    from llava.eval.report.comparison import compare, read_asked
    from llava.eval.report.figures import figures_of
    from llava.files.json_files import without_garbage_collection

    question_file = None
    if settings.question_file:
        question_file = locate(settings.question_file, remedy="Give the questions that were asked.")
    with without_garbage_collection():
        runs = _runs(settings)
        asked = read_asked(question_file) if question_file else None
        comparison = compare(runs, asked, question_file)
        figures = figures_of(comparison)
    read = [f"questions: {question_file}"] if question_file else []
    _write(settings.output, _rendered(settings, comparison, figures, read))
    _print_what_was_read(runs, comparison, read)
    return DONE


def _runs(settings: ReportSettings) -> list[EvaluatedRun]:
    from llava.eval.report.reviews import lend_answers
    from llava.eval.report.run_reader import named, read_runs, source_of
    from llava.eval.report.science_qa import ScienceQATest

    science_qa = ScienceQATest(settings.base_dir, settings.split) if settings.base_dir else None
    runs = [run for word in settings.runs for run in read_runs(source_of(word), science_qa)]
    return named(lend_answers(runs))


def _rendered(settings: ReportSettings, comparison: Comparison, figures: ReportFigures, read: list[str]) -> str:
    """Returns the report. Adds what it reads for it to `read`."""
    names = ", ".join(run.name for run in comparison.runs)
    title = settings.title or f"{comparison.benchmark}: {names}"
    common: dict[str, Any] = {"title": title, "read": read, "max_answers": settings.max_answers}
    if settings.form == "markdown":
        from llava.eval.report.markdown import report_as_markdown

        return report_as_markdown(comparison, figures, **common)
    if settings.form == "json":
        import json

        from llava.eval.report.data import as_json

        return json.dumps(as_json(comparison, figures, **common), indent=1) + "\n"

    from llava.eval.report.page import as_page

    images = _images(settings, comparison)
    read += _image_notes(images)
    return as_page(comparison, figures, images, **common)


def _images(settings: ReportSettings, comparison: Comparison) -> Images | None:
    """Returns the images of the questions that will be shown; None if there are none to show."""
    from tqdm import tqdm

    from llava.eval.report.images import embed
    from llava.eval.report.science_qa import ScienceQATest

    questions = comparison.questions[: settings.max_answers]
    names = list(dict.fromkeys(question.image for question in questions if question.image))
    if not settings.has_images or not names:
        return None
    if settings.image_folder:
        folder = locate(settings.image_folder, remedy="--image-folder must be the folder with the images.")
    elif settings.base_dir:
        folder = ScienceQATest(settings.base_dir, settings.split).images
    else:
        print(f"note: the questions name {len(names)} images. Show them with --image-folder.", file=sys.stderr)
        return None
    return embed(
        names,
        folder,
        full=settings.full_images,
        max_bytes=settings.max_image_bytes,
        progress=lambda words: tqdm(words, desc="images", unit="", leave=False, disable=None, file=sys.stderr),
    )


def _image_notes(images: Images | None) -> list[str]:
    """Returns how the images are shown and why some are not, a sentence each."""
    if images is None:
        return []
    from llava.eval.data.records import some

    size = "in full size" if images.side is None else f"at most {images.side} pixels a side"
    reasons: dict[str, list[str]] = {}
    for name, reason in images.absent.items():
        reasons.setdefault(reason, []).append(name)
    left_out = [f"images left out: {len(names):,} ({some(names, 3)}): {why}" for why, names in reasons.items()]
    return [f"images: {len(images.uris):,}, {size}", *left_out]


def _write(output: str, text: str) -> None:
    from llava.files.json_files import write_text

    if output == STDOUT:
        sys.stdout.write(text)
    else:
        write_text(output, text)


def _print_what_was_read(runs: list[EvaluatedRun], comparison: Comparison, read: list[str]) -> None:
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
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of megabytes above 0")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of questions")
    return int(text)
