"""Starts the commands of LLaVA: ask and chat about images, serve, train and evaluate models."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava import __version__
from llava.command_line import DONE, run_group
from llava.commands.catalogue import ALIASES, COMMANDS, tools_of_groups


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `llava COMMAND ...`; returns the exit code (2 for an unknown command)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("-V", "--version"):
        print(f"llava {__version__}")
        return DONE
    return run_group(
        COMMANDS, description=__doc__, argv=words, prog="llava", aliases=ALIASES, elsewhere=tools_of_groups
    )


if __name__ == "__main__":
    sys.exit(main())
