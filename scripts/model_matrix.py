"""Prints which decoders and vision towers load, train, are served in batches and can be exported, from test runs.

    python scripts/model_matrix.py            # runs the tests that prove each cell, prints the tables: two minutes
    python scripts/model_matrix.py --write    # also puts them into docs/weights.md

A cell is "yes" if every test that proves it passed, and "no" with the reason if the model refuses the use by name. A
failed test is printed as "FAILED", and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "weights.md"
USES: Final = ("load", "train", "serve batched", "export")
DECODERS: Final = "tests/integration/model/language_model/test_decoders.py"
TRAINING: Final = "tests/integration/train/test_train_decoders.py"
TOWERS: Final = "tests/integration/model/multimodal_encoder/test_families.py"
PROOFS: Final = {
    "language model": {
        f"{DECODERS}::test_logits_are_those_of_transformers": "load",
        f"{DECODERS}::test_rows_of_a_batch_give_what_they_give_alone_and_with_a_cache": "load",
        f"{DECODERS}::test_saved_in_the_originals_format_it_gives_the_same_logits": "load",
        f"{DECODERS}::test_the_loss_is_that_of_transformers_and_reaches_the_projector": "train",
        f"{TRAINING}::test_both_stages_train_what_they_should_and_their_results_load": "train",
        f"{DECODERS}::test_the_engine_gives_in_batches_what_generate_gives_alone": "serve batched",
        f"{DECODERS}::test_an_export_is_the_same_model_to_transformers_and_comes_back": "export",
    },
    "vision tower": {
        f"{TOWERS}::test_features_are_the_states_of_transformers": "load",
        f"{TOWERS}::test_states_of_several_layers_are_joined_and_a_class_token_is_kept": "load",
        f"{TOWERS}::test_both_stages_train_and_what_was_trained_is_saved": "train",
        f"{TOWERS}::test_the_engine_gives_in_batches_what_generate_gives_alone": "serve batched",
        f"{TOWERS}::test_an_export_is_the_same_model_to_transformers_or_is_refused": "export",
    },
}
"""Kind of part -> test -> the use that it proves. The part's type is the first parameter of the tests."""


@dataclass(slots=True)
class Results:
    """What the tests said; a plugin of pytest."""

    cells: dict[str, dict[str, dict[str, str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(dict)))
    """Kind of part -> its type -> use -> "yes", "no: reason" or "FAILED"."""
    tests: set[str] = field(default_factory=set)
    """Tests that ran."""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        test, _, parameter = report.nodeid.partition("[")
        for kind, proofs in PROOFS.items():
            if test in proofs:
                self.tests.add(test)
                refused = dict(report.user_properties).get("refused")
                said = "FAILED" if not report.passed else f"no: {refused}" if refused else "yes"
                cell = self.cells[kind][parameter.removesuffix("]").partition("-")[0]]
                cell[proofs[test]] = max(said, cell.get(proofs[test], ""), key=_weight)


def _weight(said: str) -> int:
    return ["yes", "no", "FAILED"].index(said.split(":")[0]) if said else -1


def run_tests() -> Results:
    """Runs the tests.

    Raises:
        RuntimeError: a test that should prove something did not run.
    """
    import pytest

    results = Results()
    tests = [test for proofs in PROOFS.values() for test in proofs]
    pytest.main(["-q", "--no-header", "-p", "no:schemathesis", *tests], plugins=[results])
    if missing := set(tests) - results.tests:
        raise RuntimeError(f"did not run: {', '.join(sorted(missing))}")
    return results


def table(kind: str, rows: dict[str, dict[str, str]]) -> str:
    """Returns a Markdown table of one kind of part."""
    lines = [f"| {kind} | {' | '.join(USES)} |", "|---|" + "---|" * len(USES)]
    for name in sorted(rows):
        cells = (rows[name].get(use, "FAILED") for use in USES)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def put_into(page: str, kind: str, text: str) -> str:
    """Returns a page with the table of one kind of part replaced.

    Raises:
        ValueError: the page has no place for it.
    """
    begin, end = f"<!-- matrix: {kind} -->", f"<!-- end: {kind} -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{begin} or {end} is missing")
    return f"{before}{begin}\n{text}\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--write", action="store_true", help=f"Also put the tables into {PAGE.relative_to(REPOSITORY)}."
    )
    args = parser.parse_args()
    results = run_tests()
    page = PAGE.read_text(encoding="utf-8")
    for kind, rows in results.cells.items():
        text = table(kind, rows)
        print(f"\n{text}")
        page = put_into(page, kind, text) if args.write else page
    if args.write:
        PAGE.write_text(page, encoding="utf-8")
    return int(any("FAILED" in row.values() for rows in results.cells.values() for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
