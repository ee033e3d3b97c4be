"""Makes the file that the MMBench server takes: the table's questions and options with a column `prediction`.

Reads RESULT_DIR/EXPERIMENT.jsonl, writes UPLOAD_DIR/EXPERIMENT.xlsx (or .csv). Of answers in several rounds
(--all-rounds) the first round goes in: the server's tables hold their rotations themselves.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.command_line import run
from llava.eval.scoring.answers import answers_to, compound, read_answers_by, warn
from llava.eval.scoring.mmbench_table import Table, add_table, is_empty, read_table
from llava.files.json_files import whole_file

_LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")
_PLACE = 6
"""Columns before that of the prediction."""
_CELL_LIMIT = 32_767
"""Characters that a cell of a spreadsheet holds."""
_NOT_IN_CELLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_table(parser)
    parser.add_argument("--result-dir", required=True, metavar="DIR", help="folder of the answers")
    parser.add_argument("--upload-dir", required=True, metavar="DIR", help="folder to write to; it is made")
    parser.add_argument("--experiment", required=True, metavar="NAME", help="name of the answers' file, without .jsonl")
    parser.add_argument("--format", choices=("xlsx", "csv"), default="xlsx", help="of the file to write (xlsx)")


def main(args: argparse.Namespace) -> int:
    table = read_table(args.annotation_file)
    found = read_answers_by(Path(args.result_dir) / f"{args.experiment}.jsonl", round_id="0")
    ids = {compound(row["index"], 0): row["index"] for row in table.rows}
    later = [identity for identity in found.lines if identity not in ids and not identity.endswith(" | 0")]
    for identity in later:
        del found.lines[identity]
    answers = answers_to(list(ids), found, of=table.path)
    warn(answers, missing="an empty cell")
    if later:
        print(f"note: {found.path}: {len(later)} answers of later rounds are left out", file=sys.stderr)
    rows = sheet(table, {index: answers.texts.get(identity) for identity, index in ids.items()})
    target = Path(args.upload_dir) / f"{args.experiment}.{args.format}"
    with whole_file(target) as temporary:
        (write_xlsx if args.format == "xlsx" else write_csv)(temporary, rows)
    print(f"{target}: {len(rows) - 1} questions, {len(answers.texts)} predictions")
    return 0


Cell = str | int | None


def sheet(table: Table, predictions: dict[str, str | None]) -> list[list[Cell]]:
    """Header and rows of the file to submit."""
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
    """Writes a workbook of one sheet; texts stay texts, whatever character they begin with."""
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
                cell.data_type = "s"  # a text that begins with = would become a formula
            cells.append(cell)
        page.append(cells)
    workbook.save(path)


def write_csv(path: Path, rows: Sequence[Sequence[Cell]]) -> None:
    """Writes comma-separated values."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
