"""Converts answers to MMBench into the file that its server accepts: the table with a column `prediction`.

Reads RESULT_DIR/EXPERIMENT.jsonl; writes UPLOAD_DIR/EXPERIMENT.xlsx (or .csv). If the answers have several rounds
(model_vqa_mmbench --all-rounds), only the first round is submitted: the server's tables contain the rotations.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import run
from llava.eval.data.records import compound_id, read_answers_by
from llava.eval.scoring.answers import answers_to, warn
from llava.eval.scoring.mmbench_table import TABLE_FILE, MMBenchTable, is_empty, read_table
from llava.files.json_files import whole_file

_LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")
_PLACE = 6
"""Number of columns before the prediction."""
_CELL_LIMIT = 32_767
"""Maximum number of characters in a cell of a spreadsheet."""
_NOT_IN_CELLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Control characters, which a spreadsheet cannot hold."""

Cell = str | int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    TABLE_FILE.add_to(parser)
    parser.add_argument("--result-dir", required=True, metavar="DIR", help="Folder of the answer file.")
    parser.add_argument("--upload-dir", required=True, metavar="DIR", help="Output folder.")
    parser.add_argument("--experiment", required=True, metavar="NAME", help="Name of the answer file without .jsonl.")
    parser.add_argument("--format", choices=("xlsx", "csv"), default="xlsx", help="Output format (default: xlsx).")


def main(args: argparse.Namespace) -> int:
    convert(
        args.annotation_file,
        Path(args.result_dir) / f"{args.experiment}.jsonl",
        Path(args.upload_dir) / f"{args.experiment}.{args.format}",
    )
    return 0


def convert(annotation_file: str, result_file: Path, target: Path) -> None:
    """Writes the file to submit, in the format that its extension names.

    Raises:
        DataError: a file has another form, or no answer belongs to a question.
    """
    table = read_table(annotation_file)
    found = read_answers_by(result_file, round_id="0")
    ids = {compound_id(row["index"], 0): row["index"] for row in table.rows}
    later = [identity for identity in found.lines if identity not in ids and not identity.endswith(" | 0")]
    for identity in later:
        del found.lines[identity]
    answers = answers_to(list(ids), found, source=table.path)
    warn(answers, missing="an empty cell")
    if later:
        print(f"note: {found.path}: {len(later)} answers of later rounds are ignored", file=sys.stderr)
    rows = sheet(table, {index: answers.texts.get(identity) for identity, index in ids.items()})
    write = write_xlsx if target.suffix == ".xlsx" else write_csv
    with whole_file(target) as temporary:
        write(temporary, rows)
    print(f"{target}: {len(rows) - 1} questions, {len(answers.texts)} predictions")


def sheet(table: MMBenchTable, predictions: dict[str, str | None]) -> list[list[Cell]]:
    """Returns header and rows of the file to submit; `predictions` are by index."""
    columns = [name for name in table.columns if name not in _LEFT_OUT]
    rows: list[list[Cell]] = [[*columns[:_PLACE], "prediction", *columns[_PLACE:]]]
    for row in table.rows:
        cells = [_cell(row[name]) for name in columns]
        rows.append([*cells[:_PLACE], predictions[row["index"]], *cells[_PLACE:]])
    return rows


def _cell(value: str) -> Cell:
    if is_empty(value):
        return None
    return int(value) if value.isascii() and value.isdigit() and not value.startswith("0") else value


def write_xlsx(path: Path, rows: Sequence[Sequence[Cell]]) -> None:
    """Writes a workbook with one sheet; text remains text, whatever character it begins with."""
    from openpyxl import Workbook  # type: ignore[import-untyped]
    from openpyxl.cell import WriteOnlyCell  # type: ignore[import-untyped]

    workbook = Workbook(write_only=True)
    page = workbook.create_sheet("Sheet1")
    for row in rows:
        cells = []
        for value in row:
            cell = WriteOnlyCell(
                page, value=_NOT_IN_CELLS.sub("", value)[:_CELL_LIMIT] if isinstance(value, str) else value
            )
            if isinstance(value, str):
                cell.data_type = "s"  # otherwise a text that begins with = becomes a formula
            cells.append(cell)
        page.append(cells)
    workbook.save(path)


def write_csv(path: Path, rows: Sequence[Sequence[Cell]]) -> None:
    """Writes comma-separated values."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
