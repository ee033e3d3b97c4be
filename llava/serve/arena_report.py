"""Ranks the models of the arena by the votes in its logs.

    python -m llava.serve.arena_report FOLDER --output report

The logs are those that the web page writes with --log-dir, and FastChat's. Scores are Bradley-Terry's by maximum
likelihood, or Elo; ties and votes that both were bad are half a win for each, as in FastChat's published analysis.
What does not count (chats, repeated votes, broken lines) is said with its number.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import DONE, run
from llava.errors import InvalidRequest
from llava.serve.service.flags import not_negative

if TYPE_CHECKING:
    from llava.serve.arena.battles import Selection
    from llava.serve.arena.ranking import Ranking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "logs", nargs="+", metavar="LOG", help="log file, or folder: all in it whose names end in -conv.json"
    )
    parser.add_argument(
        "--method", choices=("bradley-terry", "elo"), default="bradley-terry", help="default: bradley-terry"
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--anonymous-only", action="store_true", help="only votes given while the names were hidden")
    names.add_argument("--named-only", action="store_true", help="only votes given while the names were shown")
    parser.add_argument("--since", type=_day, metavar="YYYY-MM-DD", help="first day that counts, UTC (default: all)")
    parser.add_argument("--until", type=_day, metavar="YYYY-MM-DD", help="last day that counts, UTC (default: all)")
    parser.add_argument(
        "--repeated-votes",
        choices=("first", "last", "all"),
        default="first",
        help="which votes count where one conversation was voted on again (default: first, the one that is blind in "
        "the anonymous arena)",
    )
    parser.add_argument(
        "--min-votes", type=not_negative, default=0, metavar="N", help="leave out models with fewer (default: 0)"
    )
    parser.add_argument(
        "--bootstrap", type=not_negative, default=1000, metavar="N", help="resamples for intervals (default: 1000)"
    )
    parser.add_argument("--seed", type=not_negative, default=0, metavar="N", help="of the resampling (default: 0)")
    parser.add_argument("--strict", action="store_true", help="stop at a line that cannot be counted")
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown", "csv"),
        default="text",
        help="of standard output (default: text)",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="also write report.json, report.md, report.csv, report-pairs.csv and a plot there (default: nothing)",
    )
    parser.add_argument(
        "--plot",
        choices=("svg", "png"),
        default="svg",
        help="format of the plot; a png lacks letters that matplotlib's font lacks, such as Chinese (default: svg)",
    )


def main(args: argparse.Namespace) -> int:
    selection = _selection(args)

    from llava.reports.output import in_form
    from llava.serve.arena import tables
    from llava.serve.arena.ranking import make_ranking
    from llava.serve.arena.vote_log import read_votes

    log = read_votes(args.logs, strict=args.strict)
    ranking = make_ranking(log, selection, args.method, num_resamples=args.bootstrap, seed=args.seed)
    if args.output:
        _write(ranking, Path(args.output), args.plot)
    if args.format == "csv":
        sys.stdout.write(tables.standings_csv(ranking))
        print("\n".join(tables.remarks(ranking)), file=sys.stderr)
    else:
        print(in_form(ranking, args.format, tables))
    return DONE


def _selection(args: argparse.Namespace) -> Selection:
    from llava.serve.arena.battles import Selection

    if args.since and args.until and args.since > args.until:
        raise InvalidRequest(f"--since {args.since} is after --until {args.until}. Exchange the two.")
    return Selection(
        names="anonymous" if args.anonymous_only else "named" if args.named_only else "all",
        repeated=args.repeated_votes,
        since_s=_midnight_s(args.since) if args.since else None,
        until_s=_midnight_s(args.until + timedelta(days=1)) if args.until else None,
        min_votes=args.min_votes,
    )


def _write(ranking: Ranking, folder: Path, plot: str) -> None:
    from llava.reports.output import write_report
    from llava.serve.arena import tables
    from llava.serve.arena.plot import draw

    csvs = {"report.csv": tables.standings_csv, "report-pairs.csv": tables.pairs_csv}
    write_report(ranking, folder, "report", tables=tables, csvs=csvs, draw=draw, plot=plot)


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day, such as 2026-01-31") from None


def _midnight_s(day: date) -> float:
    """When a day begins, in seconds since 1970."""
    return datetime.combine(day, time(), timezone.utc).timestamp()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
