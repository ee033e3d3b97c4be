"""Models fetched from the hub and deltas uploaded to it: the commands as processes, a hub of our own on loopback."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.hub import ATTRIBUTES, Hub, files_of, sha256

if TYPE_CHECKING:
    from tests.conftest import RunCommand

SEVERAL_COMMANDS = """
import contextlib, io, json, sys
from llava.__main__ import main

done = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""
"""Runs `llava WORDS...` for each list of words: one start of Python for all of them."""
RESOLVE = "import sys; from llava.model.weights.reader import resolve_folder; print(resolve_folder(sys.argv[1]))"


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


def run_several(run_python: RunCommand, commands: list[list[str]], environment: dict[str, str]) -> list[Done]:
    process = run_python("-c", SEVERAL_COMMANDS, json.dumps(commands), **environment)
    assert process.returncode == 0, process.stderr
    return [Done(*each) for each in json.loads(process.stdout)]


def make_delta(data: Path, delta: Path, *more: str) -> list[str]:
    parts = ["--base", str(data / "llama-vicuna-tiny"), "--target", str(data / "llava-v0-tiny"), "--delta", str(delta)]
    return ["weights", "make-delta", *parts, "--quiet", *more]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def test_a_model_is_fetched_once_and_found_again_without_the_hub(run_python, data, tmp_path):
    files = files_of(data / "llava-v1.5-tiny")
    tower = {f"clip-tiny/{name}": content for name, content in files_of(data / "clip-tiny").items()}
    command = ("-m", "llava", "weights", "info", "lab/llava")
    with Hub() as hub:
        hub.add("lab/llava", {**files, **tower})
        environment = hub.environment(tmp_path)
        first = run_python(*command, **environment)
    second = run_python(*command, **environment)
    assert (first.returncode, first.stderr) == (0, "")
    assert "LLaVA in the original's format" in first.stdout
    assert "clip-tiny/ in the folder" in first.stdout
    assert hub.count("GET", sha256(files["pytorch_model.bin"])) == 1
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")


def test_a_private_models_own_files_arrive_whole_over_a_bad_connection(run_python, hub, tmp_path):
    # the client keeps what it has in pieces of 10 MiB: a cut within the second piece can be resumed
    weights = random.Random(1).randbytes(12 << 20)
    model = {
        "config.json": b"{}",
        "model.safetensors": weights,
        "tokenizer.model": b"tokens",
        "chat_template.jinja": b"{{ text }}",
        "merges.txt": b"a b",
        "clip/preprocessor_config.json": b"{}",
    }
    beside = {"README.md": b"# Model", "tf_model.h5": b"h5", "original/weights.pth": b"pth", "cat.png": b"png"}
    hub.add("lab/secret", {**model, **beside}, private=True)
    hub.fail("HEAD", "/config.json", status=503)
    hub.cut("GET", sha256(weights), after_bytes=11 << 20)
    done = run_python("-c", RESOLVE, "lab/secret", **hub.environment(tmp_path, token=hub.token))
    assert done.returncode == 0, done.stderr
    assert files_of(Path(done.stdout.strip())) == model
    pieces = [seen.first_byte for seen in hub.seen if seen.method == "GET" and sha256(weights) in seen.path]
    assert pieces == [0, 10 << 20]


@pytest.fixture(scope="module")
def refused(run_python: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """What nobody in particular is told about each of some models that cannot be fetched."""
    models = ["lab/none", "lab/secret", "lab/silent", "lab/fragile", "lab/down"]
    with Hub() as hub:
        for name in models[1:]:
            hub.add(name, {"config.json": b"{}"}, private=name == "lab/secret")
        hub.cut("GET", "/api/models/lab/silent")
        hub.cut("HEAD", "lab/fragile/resolve")
        hub.fail("GET", "/api/models/lab/down", status=503)
        environment = hub.environment(tmp_path_factory.mktemp("nobody"))
        done = run_several(run_python, [["weights", "info", name] for name in models], environment)
    return dict(zip(models, done, strict=True))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("lab/none", "the repository does not exist"),
        ("lab/secret", "`hf auth login`"),
        ("lab/silent", "disconnected"),
        ("lab/fragile", "disconnected"),
        ("lab/down", "503"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_one_line_that_names_it(refused, model, reason):
    done = refused[model]
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {model}: ")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_upload_puts_the_folders_files_into_a_private_repository(run_python, data, hub, tmp_path):
    hub.fail("PUT", "/", status=503)  # the store takes the first file at the second attempt
    words = make_delta(data, tmp_path / "delta", "--max-shard-size", "400KB", "--hub-repo-id", "lab/delta")
    done = run_python("-m", "llava", *words, "--hub-private", **hub.environment(tmp_path / "home", token=hub.token))
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/lab/delta" in done.stdout
    made = files_of(tmp_path / "delta")
    assert sum(name.endswith(".safetensors") for name in made) > 1
    assert hub.repositories["lab/delta"].files == {**ATTRIBUTES, **made}
    assert hub.repositories["lab/delta"].private


def test_upload_without_a_token_fails_and_leaves_the_delta_in_its_folder(run_python, data, hub, tmp_path):
    kept, failed = tmp_path / "kept", tmp_path / "failed"
    commands = [make_delta(data, kept), make_delta(data, failed, "--hub-repo-id", "lab/delta")]
    alone, uploaded = run_several(run_python, commands, hub.environment(tmp_path / "home"))
    assert (alone.code, uploaded.code) == (0, 1)
    assert uploaded.stderr.startswith(f"error: lab/delta: the delta is in {failed}, but could not be uploaded")
    assert len(uploaded.stderr.splitlines()) == 1
    assert files_of(failed) == files_of(kept)
    assert hub.repositories == {}


@pytest.fixture(scope="module")
def not_uploaded(run_python: RunCommand, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """What the account is told about uploads that fail for other reasons."""
    folder = tmp_path_factory.mktemp("deltas")
    commands = [
        make_delta(data, folder / "silent", "--hub-repo-id", "lab/silent"),
        make_delta(data, folder / "full", "--hub-repo-id", "lab/full"),
        make_delta(data, folder / "foreign", "--hub-repo-id", "other/delta"),
        make_delta(data, folder / "public", "--hub-repo-id", "lab/public", "--hub-private"),
    ]
    with Hub() as hub:
        public = hub.add("lab/public", {})
        hub.cut("POST", "/api/repos/create")
        hub.fail("PUT", "/", status=507)
        done = run_several(run_python, commands, hub.environment(folder / "home", token=hub.token))
    assert public.files == ATTRIBUTES
    return dict(zip(["lab/silent", "lab/full", "other/delta", "lab/public"], done, strict=True))


@pytest.mark.parametrize(
    ("repository", "reason"),
    [
        ("lab/silent", "disconnected"),
        ("lab/full", "while uploading"),
        ("other/delta", "rights"),
        ("lab/public", "public"),
    ],
)
def test_a_failed_upload_is_one_line_that_says_where_the_delta_is(not_uploaded, repository, reason):
    done = not_uploaded[repository]
    assert done.code == 1
    assert done.stderr.startswith(f"error: {repository}: ")
    assert reason in done.stderr
    assert "the delta is in " in done.stderr
    assert len(done.stderr.splitlines()) == 1
