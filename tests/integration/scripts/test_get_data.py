"""scripts/get_data.sh against a local HTTP server; the files are made up, and so are their checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llava.eval.get_data import COMMIT, FILES, SOURCE
from tests.conftest import REPOSITORY

COMMAND = "llava/eval/get_data.py"
NEEDED = ("llava/__init__.py", "llava/command_line.py", "llava/errors.py", "llava/eval/__init__.py")
QUESTIONS = "playground/data/coco2014_val_qa_eval/qa90_questions.jsonl"


class Mirror:
    """Serves a content for each file; some of them not, some cut off, with or without ranges."""

    def __init__(self):
        self.contents = {file.name: f"{file.name}\n".encode() * 2000 for file in FILES}
        self.requests: list[tuple[str, str | None]] = []
        self.missing: set[str] = set()
        self.cut_off: dict[str, int] = {}
        """How often a file is cut off in the middle of what is still to send."""
        self.has_ranges = True

    @contextmanager
    def serving(self) -> Iterator[str]:
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, asked = handler.path[1:], handler.headers.get("range")
        self.requests.append((name, asked))
        if name in self.missing:
            handler.send_error(404)
            return
        content = self.contents[name]
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.has_ranges else 0
        if begin >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        rest = content[begin:]
        handler.send_header("Content-Length", str(len(rest)))
        handler.end_headers()
        if self.cut_off.get(name):
            self.cut_off[name] -= 1
            rest = rest[: len(rest) // 2]
        handler.wfile.write(rest)


@pytest.fixture
def mirror() -> Mirror:
    return Mirror()


@pytest.fixture
def checkout(tmp_path: Path, mirror: Mirror) -> Path:
    """A folder with a command that expects the mirror's contents, and a rule file of our own."""
    (tmp_path / "llava" / "eval" / "table").mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    for name in (*NEEDED, "scripts/get_data.sh", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    text = (REPOSITORY / COMMAND).read_text()
    for file in FILES:
        text = text.replace(file.sha256, hashlib.sha256(mirror.contents[file.name]).hexdigest())
    (tmp_path / COMMAND).write_text(text)
    (tmp_path / "llava" / "eval" / "table" / "rule.json").write_text("ours")
    return tmp_path


@pytest.fixture
def fetch(checkout: Path, mirror: Mirror):
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        with mirror.serving() as url:
            return subprocess.run(
                ["bash", "scripts/get_data.sh", "--from", url, *flags],
                cwd=checkout,
                env={**os.environ, "PYTHON": sys.executable},
                capture_output=True,
                text=True,
            )

    return run


def test_every_file_comes_to_its_place_and_ours_stays(fetch, checkout, mirror):
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert "CC BY-NC 4.0" in done.stdout, "under which terms"
    for file in FILES:
        assert (checkout / file.path).read_bytes() == mirror.contents[file.name]
    assert (checkout / "llava/eval/table/rule.json").read_text() == "ours"
    assert list(checkout.rglob("*.part")) == []


def test_what_is_there_is_not_fetched_again(fetch, mirror):
    assert fetch().returncode == 0
    mirror.requests.clear()
    done = fetch()
    assert done.returncode == 0
    assert mirror.requests == []
    assert done.stdout.count("present:") == len(FILES)


def test_a_file_with_another_sum_is_not_kept_and_the_others_are(fetch, checkout, mirror):
    mirror.contents[QUESTIONS] = b"something else"
    done = fetch()
    assert done.returncode == 1
    assert f"{QUESTIONS}: the downloaded file is not the expected one" in done.stderr
    assert "error: 1 files are missing" in done.stderr
    assert not (checkout / QUESTIONS).exists()
    assert len(list(checkout.rglob("*.jsonl"))) == sum(file.path.suffix == ".jsonl" for file in FILES) - 1


def test_a_file_of_the_users_own_in_the_place_of_one_is_left_alone(fetch, checkout):
    (checkout / QUESTIONS).parent.mkdir(parents=True)
    (checkout / QUESTIONS).write_text("mine")
    done = fetch()
    assert done.returncode == 1
    assert f"{QUESTIONS}: a different file is in its place" in done.stderr
    assert (checkout / QUESTIONS).read_text() == "mine"


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_transfer_that_is_cut_off_is_gone_on_with(has_ranges, fetch, checkout, mirror):
    mirror.cut_off[QUESTIONS] = 1
    mirror.has_ranges = has_ranges
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert (checkout / QUESTIONS).read_bytes() == mirror.contents[QUESTIONS]
    if has_ranges:
        half = len(mirror.contents[QUESTIONS]) // 2
        assert [asked for name, asked in mirror.requests if name == QUESTIONS][1] == f"bytes={half}-"


def test_a_transfer_that_is_cut_off_again_and_again_is_gone_on_with_by_the_next_run(fetch, checkout, mirror):
    mirror.cut_off[QUESTIONS] = 3
    done = fetch()
    assert done.returncode == 1
    assert f"{QUESTIONS}: the download was interrupted. Run this command again to resume it." in done.stderr
    mirror.requests.clear()
    assert fetch().returncode == 0
    assert [asked for _, asked in mirror.requests] == [f"bytes={len(mirror.contents[QUESTIONS]) * 7 // 8}-"]
    assert (checkout / QUESTIONS).read_bytes() == mirror.contents[QUESTIONS]


def test_a_file_that_is_not_there_is_named_and_the_others_come(fetch, checkout, mirror):
    mirror.missing.add(QUESTIONS)
    done = fetch()
    assert done.returncode == 1
    assert f"{QUESTIONS}: cannot be downloaded from http://127.0.0.1" in done.stderr
    assert done.stdout.count("fetched:") == len(FILES) - 1


def test_the_list_tells_place_address_and_sum_of_each_file_and_fetches_nothing(fetch, mirror):
    done = fetch("--list")
    assert done.returncode == 0
    assert mirror.requests == []
    assert "llava/eval/table/rule_original.json\n" in done.stdout
    assert done.stdout.count("sha256 ") == len(FILES) == 7


@pytest.mark.parametrize("cut_off", [0, 3])
def test_a_pointer_of_git_lfs_is_followed_even_by_a_transfer_that_is_cut_off(cut_off, fetch, checkout, mirror):
    content = mirror.contents[QUESTIONS]
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(content).hexdigest()}\nsize 1\n"
    mirror.contents[f"media/{QUESTIONS}"] = content
    mirror.contents[QUESTIONS] = pointer.encode()
    mirror.cut_off[f"media/{QUESTIONS}"] = cut_off
    if cut_off:
        assert fetch().returncode == 1
        mirror.requests.clear()
    assert fetch().returncode == 0
    assert (checkout / QUESTIONS).read_bytes() == content
    if cut_off:
        assert mirror.requests == [(f"media/{QUESTIONS}", f"bytes={len(content) * 7 // 8}-")]


def test_help_and_wrong_usage(fetch):
    assert "usage: python -m llava.eval.get_data" in fetch("--help").stdout
    assert fetch("--form", "x").returncode == 2


def test_the_public_address_names_the_commit():
    assert f"https://raw.githubusercontent.com/haotian-liu/LLaVA/{COMMIT}" == SOURCE
    assert COMMIT == "c121f0432da27facab705978f83c4ada465e46fd"
