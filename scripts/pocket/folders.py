"""Adds the flags that name the folders of the embedded model's making; the scripts of this folder share them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_work(parser: argparse.ArgumentParser) -> None:
    """Adds `--work`, the folder where each part leaves what the next one reads."""
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("work/pocket"),
        metavar="DIR",
        help="Folder of the parts (default: work/pocket).",
    )


def add_fashion(parser: argparse.ArgumentParser) -> None:
    """Adds `--fashion`, the folder of the photographs; `fashion.locate` finds it if the flag is absent."""
    parser.add_argument(
        "--fashion",
        type=Path,
        metavar="DIR",
        help="Folder of the Fashion-MNIST files (default: the installed package).",
    )


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds `--out`, the output folder."""
    parser.add_argument(
        "--out", type=Path, default=Path(default), metavar="DIR", help=f"Output folder (default: {default})."
    )
