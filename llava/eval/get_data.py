"""Downloads the files that the original LLaVA published for its evaluation.

They are written to the paths that the commands of the README name, below the root of a checkout or, without one, below
the current folder. The files come from github.com/haotian-liu/LLaVA at commit c121f0432da27facab705978f83c4ada465e46fd.
They are not part of this project and not under its licence:

  - Questions, answers and contexts about COCO images: CC BY-NC 4.0, so not for commercial use. They were made with
    GPT-4, so OpenAI's terms of use apply too. Captions and boxes are COCO's, CC BY 4.0.
  - test_sqa_llava_13b_v0.json: answers to ScienceQA, which is CC BY-NC-SA 4.0.
  - rule.json and question.jsonl: Apache-2.0, like the original's code.

Complete files are not downloaded again, and interrupted downloads are resumed. Without a network, download the files
elsewhere, put each one at the path that --list shows, and run this command again to check them.

Exit code 0: all files are complete; 1: some are not, and a message names each of them; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from llava.command_line import DONE, FAILED, run
from llava.errors import DataError

COMMIT = "c121f0432da27facab705978f83c4ada465e46fd"
SOURCE = f"https://raw.githubusercontent.com/haotian-liu/LLaVA/{COMMIT}"
LARGE_FILES = f"https://media.githubusercontent.com/media/haotian-liu/LLaVA/{COMMIT}"
"""Where GitHub serves the content of files that the repository holds in Git LFS."""

TERMS = "CC BY-NC 4.0 and OpenAI's terms (about COCO images), CC BY-NC-SA 4.0 (ScienceQA), Apache-2.0 (the rest)"

ATTEMPTS = 3
TIMEOUT_S = 30
CHUNK_BYTES = 1 << 16
TRANSIENT = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file of the original's repository."""

    sha256: str
    name: str
    """Its path in the original's repository."""
    renamed: str = ""
    """Our path, if it is a different one: the original's rule.json is kept beside ours."""

    @property
    def path(self) -> Path:
        return Path(self.renamed or self.name)


_QUESTIONS = "playground/data/coco2014_val_qa_eval"
_TABLE = "llava/eval/table"

FILES = (
    PublishedFile(
        "2a77196696b5602b544244ace9aeac21300513be85b5e53eb2414d00cddbe1c7", f"{_QUESTIONS}/qa90_questions.jsonl"
    ),
    PublishedFile(
        "5fd1a760483fb54e62a717a406add8a986f3e03a40d037b5d6515828cc90dbc5", f"{_QUESTIONS}/qa90_gpt4_answer.jsonl"
    ),
    PublishedFile(
        "ed554e19bc901fae4ae7627858ca5d14befa5b5a0984ed5ce537d4ac3316bf5e",
        "playground/data/coco2014_val_gpt4_qa_30x3.jsonl",
    ),
    PublishedFile(
        "818d3df2b52784699bbdc129b6bc68e035d78ff8f5093c3e2ce5e0f726549b15", f"{_TABLE}/caps_boxes_coco2014_val_80.jsonl"
    ),
    PublishedFile(
        "dd7345a44ce9f7a24e51a30ee030cdab32346f9d08e3359c80545ff1312b1e07",
        f"{_TABLE}/rule.json",
        renamed=f"{_TABLE}/rule_original.json",
    ),
    PublishedFile("590c39157bc561eadd7f03cad4be18c2b597f93029780af65f86718f39eafa87", f"{_TABLE}/question.jsonl"),
    PublishedFile(
        "35574d4ebb89ad628319c8624145a500ddb4792967f6da137b6d4fd6317a6fce",
        f"{_TABLE}/results/test_sqa_llava_13b_v0.json",
    ),
)


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where files are downloaded from."""

    source: str = SOURCE
    """URL of the folder that stands for the root of the original's repository."""
    large_files: str = LARGE_FILES
    """The same for files of which `source` has pointers of Git LFS only."""


class _Interrupted(Exception):
    """A download that ended early; the partial file can be resumed."""


class _Refused(Exception):
    """A server that does not have the file, or that cannot be reached."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--list", action="store_true", help="List the files with their paths, URLs and sha256; download nothing."
    )
    parser.add_argument(
        "--from",
        dest="url",
        metavar="URL",
        help="Mirror to download from. It has the files under the paths of the original's repository, and large files "
        "under URL/media if URL itself has only Git LFS pointers (default: the original's repository on GitHub).",
    )


def main(args: argparse.Namespace) -> int:
    url = args.url and args.url.rstrip("/")
    mirror = Mirror(url, f"{url}/media") if url else Mirror()
    if args.list:
        for file in FILES:
            print(f"{file.path}\n    from   {mirror.source}/{file.name}\n    sha256 {file.sha256}")
        return DONE
    print(f"These files are not under this project's licence: {TERMS}.", flush=True)
    missing = [file for file in FILES if not _is_obtained(file, mirror, root_folder())]
    if missing:
        print(f"error: {len(missing)} files are missing. Run the same command again to continue.", file=sys.stderr)
    return FAILED if missing else DONE


def root_folder() -> Path:
    """The root of the checkout that this module lies in, else the current folder."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def _is_obtained(file: PublishedFile, mirror: Mirror, root: Path) -> bool:
    try:
        state = obtain(file, mirror, root)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(f"{state + ':':<8} {file.path}", flush=True)
    return True


def obtain(file: PublishedFile, mirror: Mirror, root: Path) -> str:
    """Downloads a file unless it is complete; returns "present" or "fetched".

    Raises:
        DataError: a different file is in its place, or it cannot be downloaded; says what to do.
    """
    path = root / file.path
    if path.is_file():
        if (found := _sha256(path)) == file.sha256:
            return "present"
        raise DataError(
            f"{file.path}: a different file is in its place (sha256 {found}, expected {file.sha256}). "
            "Move it away and run this command again."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        _download(file, mirror, part)
    except _Interrupted as error:
        raise DataError(f"{file.path}: the download was interrupted. Run this command again to resume it.") from error
    except _Refused as error:
        raise DataError(
            f"{file.path}: cannot be downloaded from {mirror.source}/{file.name} ({error}). "
            "Check the network, or put the file there by hand (see --list)."
        ) from error
    if (found := _sha256(part)) != file.sha256:
        part.unlink()
        raise DataError(
            f"{file.path}: the downloaded file is not the expected one (sha256 {found}, expected {file.sha256}); "
            "it was removed."
        )
    part.replace(path)
    return "fetched"


def _download(file: PublishedFile, mirror: Mirror, part: Path) -> None:
    """Downloads into `part`; if `source` has a pointer of Git LFS only, what it points to, by way of PART.large."""
    large = part.with_name(f"{part.name}.large")
    if not large.exists():
        if part.exists() and _sha256(part) == file.sha256:
            return
        _fetch(f"{mirror.source}/{file.name}", part)
        if not _is_pointer_to(part, file.sha256):
            return
        part.unlink()
        large.touch()  # tells a later run that the pointer has been followed
    _fetch(f"{mirror.large_files}/{file.name}", large)
    large.replace(part)


def _fetch(url: str, part: Path) -> None:
    """Downloads a URL into `part`, continuing with what `part` holds; tries again after an interruption."""
    for attempt in range(ATTEMPTS):
        try:
            _fetch_once(url, part)
            return
        except HTTPError as error:
            if error.code in TRANSIENT:
                time.sleep(2**attempt)
            elif not _size(part):
                raise _Refused(f"HTTP status {error.code}") from error
            else:
                part.unlink()  # the server cannot continue in the middle of the file
        except (OSError, HTTPException) as error:
            if not _size(part):
                raise _Refused(getattr(error, "reason", None) or error) from error
        except _Interrupted:
            pass
    if not _size(part):
        raise _Refused("the server is not available")
    raise _Interrupted


def _fetch_once(url: str, part: Path) -> None:
    start = _size(part)
    headers = {"Range": f"bytes={start}-"} if start else {}
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as response:
        resumed = response.status == 206
        with part.open("ab" if resumed else "wb") as out:
            _copy(response, out)


def _copy(response: HTTPResponse, out: IO[bytes]) -> None:
    expected = response.length  # falls as bytes are read
    received = 0
    while data := response.read(CHUNK_BYTES):
        received += len(data)
        out.write(data)
    if expected is not None and received < expected:
        raise _Interrupted


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _is_pointer_to(file: Path, sha256: str) -> bool:
    with file.open("rb") as opened:
        return f"oid sha256:{sha256}\n".encode() in opened.read(200)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while data := opened.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
