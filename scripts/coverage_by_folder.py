"""Prints the statement coverage of the package by folder, from the data of a coverage run."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "llava"


def main() -> int:
    from coverage import Coverage

    coverage = Coverage()
    coverage.load()
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for source in sorted(PACKAGE.rglob("*.py")):
        _, statements, _, missing, _ = coverage.analysis2(str(source))
        for folder in (source.parent.relative_to(PACKAGE.parent).as_posix(), "total"):
            counts[folder][0] += len(statements)
            counts[folder][1] += len(missing)
    print(f"{'folder':<40}{'statements':>12}{'covered':>10}")
    for folder, (all_statements, uncovered) in sorted(counts.items(), key=lambda item: (item[0] == "total", item[0])):
        if all_statements:
            print(f"{folder:<40}{all_statements:>12}{1 - uncovered / all_statements:>10.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
