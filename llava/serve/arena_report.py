"""Ranks the models of the arena by the votes in its logs.

    python -m llava.serve.arena_report FOLDER --output report

The logs are those that the web page writes with --log-dir, or FastChat's. Models get Bradley-Terry scores by maximum
likelihood, or Elo scores. Ties and votes that both answers are bad count as half a win for each model, as in FastChat's
published analysis. The report also counts what it leaves out: chats, repeated votes and broken lines.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import DONE, run
from llava.errors import InvalidRequest
from llava.serve.arena.battles import Selection
from llava.serve.service.flags import not_negative

if TYPE_CHECKING:
    from llava.serve.arena.ratings import Method


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "logs", nargs="+", metavar="LOG", help="Log file, or folder whose files ending in -conv.json are read."
    )
    parser.add_argument(
        "--method",
        choices=("bradley-terry", "elo"),
        default="bradley-terry",
        help="How scores are computed (default: bradley-terry).",
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--anonymous-only", action="store_true", help="Count only votes given while the model names were hidden."
    )
    names.add_argument(
        "--named-only", action="store_true", help="Count only votes given while the model names were shown."
    )
    parser.add_argument(
        "--since", type=_day, metavar="YYYY-MM-DD", help="First day to count, in UTC (default: no limit)."
    )
    parser.add_argument(
        "--until", type=_day, metavar="YYYY-MM-DD", help="Last day to count, in UTC (default: no limit)."
    )
    parser.add_argument(
        "--repeated-votes",
        choices=("first", "last", "all"),
        default="first",
        help="Which votes to count when a conversation was voted on more than once (default: first, which is the blind "
        "one in the anonymous arena).",
    )
    parser.add_argument(
        "--min-votes", type=not_negative, default=0, metavar="N", help="Leave out models with fewer votes (default: 0)."
    )
    parser.add_argument(
        "--bootstrap",
        type=not_negative,
        default=1000,
        metavar="N",
        help="Number of resamples for the intervals; 0 for no intervals (default: 1000).",
    )
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="N", help="Random seed of the resampling (default: 0)."
    )
    parser.add_argument(
        "--strict", action="store_true", help="Stop at the first line that cannot be read, instead of leaving it out."
    )
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown", "csv"),
        default="text",
        help="Format of the report on standard output (default: text).",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="Folder that also gets report.json, report.md, report.csv, report-pairs.csv and a plot.",
    )
    parser.add_argument(
        "--plot",
        choices=("svg", "png"),
        default="svg",
        help="Format of the plot (default: svg). A PNG lacks letters that matplotlib's font lacks, such as Chinese.",
    )


@dataclass(frozen=True, slots=True)
class ArenaReportSettings:
    """What to rank, and how to report it."""

    logs: tuple[str, ...]
    """Log files and folders of log files."""
    selection: Selection
    """Battles to count."""
    method: Method
    num_resamples: int
    """Bootstrap resamples for the intervals; 0 for no intervals."""
    seed: int
    """Random seed of the resampling."""
    strict: bool
    """Whether a line that cannot be read is an error."""
    form: str
    """Format on standard output: `text`, `json`, `markdown` or `csv`."""
    folder: Path | None
    """Folder for the report in every format; None writes no files."""
    plot: str
    """Format of the plot: `svg` or `png`."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ArenaReportSettings:
        """
        Raises:
            InvalidRequest: --since is after --until.
        """
        return cls(
            logs=tuple(args.logs),
            selection=_selection(args),
            method=args.method,
            num_resamples=args.bootstrap,
            seed=args.seed,
            strict=args.strict,
            form=args.format,
            folder=Path(args.output) if args.output else None,
            plot=args.plot,
        )


def main(args: argparse.Namespace) -> int:
    settings = ArenaReportSettings.from_args(args)

    from llava.reports.output import write_report
    from llava.reports.rendering import rendered
    from llava.serve.arena.plot import draw
    from llava.serve.arena.ranking import make_ranking
    from llava.serve.arena.tables import document_of, remarks
    from llava.serve.arena.vote_log import read_votes

    log = read_votes(settings.logs, strict=settings.strict)
    ranking = make_ranking(
        log, settings.selection, settings.method, num_resamples=settings.num_resamples, seed=settings.seed
    )
    document = document_of(ranking)
    if settings.folder:
        write_report(document, settings.folder, "report", draw=lambda kind: draw(ranking, kind), plot=settings.plot)
    print(rendered(document, settings.form))
    if settings.form == "csv":
        print("\n".join(remarks(ranking)), file=sys.stderr)
    return DONE


def _selection(args: argparse.Namespace) -> Selection:
    if args.since and args.until and args.since > args.until:
        raise InvalidRequest(f"--since {args.since} is after --until {args.until}. Exchange the two.")
    return Selection(
        names="anonymous" if args.anonymous_only else "named" if args.named_only else "all",
        repeated=args.repeated_votes,
        since_s=_midnight_s(args.since) if args.since else None,
        until_s=_midnight_s(args.until + timedelta(days=1)) if args.until else None,
        min_votes=args.min_votes,
    )


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2026-01-31") from None


def _midnight_s(day: date) -> float:
    """Returns when a day begins, in seconds since 1970, UTC."""
    return datetime.combine(day, time(), timezone.utc).timestamp()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
