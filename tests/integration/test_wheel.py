"""The wheel is whole: it holds all that is tracked below llava/, and runs every command outside of a checkout."""

from __future__ import annotations

import os
import shutil
import signal
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from llava.commands.catalogue import entries
from tests.conftest import REPOSITORY
from tests.support.probe import Prober
from tests.support.serving import Service

pytestmark = pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="asks git which files are tracked")

FETCHED = "llava/eval/table/question.jsonl"
"""A file that `llava eval get-data` puts beside ours, and that is under other terms."""


def tracked(*folders: str) -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return {name for name in done.stdout.split("\0") if name and (REPOSITORY / name).exists()}


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path

    def files_of_wheel(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def files_of_sdist(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {member.name.partition("/")[2] for member in archive if member.isfile()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist, made from a copy in which evaluation data have been fetched."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked("llava", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, source / name)
    (source / FETCHED).write_text("{}\n")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", output, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel], [sdist] = output.glob("*.whl"), output.glob("*.tar.gz")
    return Built(wheel, sdist)


@dataclass(frozen=True)
class Installation:
    """An environment with the wheel in it, which sees the libraries of the tests but not the checkout."""

    python: Path
    folder: Path
    """An empty folder to run commands in."""
    environment: dict[str, str]


@pytest.fixture(scope="module")
def installation(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", built.wheel], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    assert set(site.getsitepackages()) & set(libraries)
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return Installation(python, tmp_path_factory.mktemp("elsewhere"), environment)


@pytest.fixture(scope="module")
def python(installation: Installation) -> Iterator[Prober]:
    with Prober(installation.folder, interpreter=installation.python, environment=installation.environment) as prober:
        yield prober


def test_the_wheel_holds_what_is_tracked_and_nothing_else(built):
    inside = {name for name in built.files_of_wheel() if not name.partition("/")[0].endswith(".dist-info")}
    assert inside == tracked("llava")


def test_the_sdist_holds_what_is_tracked_and_nothing_that_was_fetched(built):
    inside = {name for name in built.files_of_sdist() if name.startswith("llava/")}
    assert inside == tracked("llava")


def test_the_licences_of_what_is_shipped_are_inside(built):
    licences = {name.partition("/licenses/")[2] for name in built.files_of_wheel() if "/licenses/" in name}
    assert licences == {"LICENSE", "llava/serve/page/examples/LICENSE-fashion-mnist"}
    given = (REPOSITORY / "playground/images/LICENSE-fashion-mnist").read_bytes()
    assert (REPOSITORY / "llava/serve/page/examples/LICENSE-fashion-mnist").read_bytes() == given


def test_the_commands_run_from_the_wheel(installation):
    code = "import llava, sys; print(llava.__file__)"
    done = subprocess.run(
        [installation.python, "-c", code],
        cwd=installation.folder,
        env=installation.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(installation.python.parents[1])
    assert (installation.python.parent / "llava").exists()


@pytest.mark.parametrize("entry", list(entries()), ids=lambda entry: entry.prog)
def test_every_command_of_the_wheel_prints_its_help(entry, python):
    probed = python.module("llava", *entry.words, "--help") if entry.words else python.module(entry.module, "--help")
    assert probed.code == 0, probed.text
    assert "usage: " in probed.text


def test_the_wheel_knows_where_evaluation_data_go(python):
    listed = python.module("llava", "eval", "get-data", "--list")
    assert listed.code == 0
    assert FETCHED in listed.text.splitlines()


def test_the_wheel_serves_the_web_page_with_its_examples(installation):
    command = ("-m", "llava", "web", "--port", "0")
    secrets = {"LLAVA_CLUSTER_TOKEN": "", "LLAVA_API_KEY": "", "PYTHONPATH": ""}
    with Service(*command, interpreter=installation.python, cwd=installation.folder, **secrets) as service:
        address = service.wait_for(r"^[\d -:]+\| INFO \| llava\.serve \| Uvicorn running on (http://\S+)", 240)[1]
        page = httpx.get(address).text
        assert "LLaVA" in page
        assert "sneaker.png" in page
        service.process.send_signal(signal.SIGTERM)  # killed, it would leave its controller and its worker behind
        service.wait()
