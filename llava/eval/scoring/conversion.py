"""The frame of the commands that convert an answer file into the file of another program, question by question."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llava.eval.data.records import Joined, locate, read_answers
from llava.eval.scoring.answers import warn_of_duplicates
from llava.files.json_files import write_json


@dataclass(frozen=True)
class Conversion:
    """The declaration of a conversion that needs nothing but the answers."""

    what: str
    """What the new file holds, in words, such as `predictions`."""
    convert: Callable[[Joined], Any]
    """Returns the content of the new file, a list or an object with one entry per answer."""
    indent: int | None = None
    """Indentation of the new file; None writes it on one line."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds `--src` and `--dst`."""
        parser.add_argument("--src", required=True, metavar="FILE", help="Answers of the model (JSON Lines).")
        parser.add_argument("--dst", required=True, metavar="FILE", help="Output file (JSON).")

    def main(self, args: argparse.Namespace) -> int:
        """Converts the file.

        Raises:
            DataError: the answers cannot be read.
        """
        source, target = args.src, args.dst
        answers = read_answers(locate(source))
        warn_of_duplicates(answers)
        content = self.convert(answers)
        write_json(target, content, indent=self.indent)
        print(f"{target}: {len(content)} {self.what}")
        return 0
