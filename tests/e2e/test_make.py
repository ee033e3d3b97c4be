"""`make` sets itself up: which interpreter it takes, and what it says and leaves behind when it cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what the set-up reads, and nothing that pip could fetch."""
    (tmp_path / "scripts").mkdir()
    for name in ("Makefile", "pyproject.toml", "scripts/setup_venv.sh"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "constraints.txt").write_text("torch==0.0.0\n")
    return tmp_path


def make(project: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PATH": path or os.environ["PATH"]}
    environment.pop("MAKEFLAGS", None)
    return subprocess.run(
        [str(shutil.which("make")), *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def interpreter(folder: Path, name: str, body: str) -> Path:
    """An executable that answers as a Python would; `$2` is the code that it is asked to run."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


def test_make_alone_says_what_there_is(project):
    done = make(project)
    assert done.returncode == 0
    assert all(
        f"make {target} " in done.stdout for target in ("demo", "check", "test", "lint", "coverage", "docs", "clean")
    )


def test_a_failed_set_up_says_why_and_leaves_no_stamp(project):
    done = make(project, "demo", f"PYTHON={sys.executable}")
    assert done.returncode != 0
    assert "[set-up] creating .venv with Python 3." in done.stdout
    assert "error: pip could not install: torch==0.0.0" in done.stderr
    assert not (project / ".venv" / ".ready").exists()
    assert "run_llava" not in done.stdout, "nothing runs after a failed set-up"


def test_a_python_that_is_too_old_is_refused_by_name(project, tmp_path):
    old = interpreter(tmp_path / "bin", "python3.8", "exit 1")
    done = make(project, "test", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"error: {old} is not a Python from 3.10 to 3.13" in done.stderr
    assert not (project / ".venv").exists()


def test_a_missing_venv_module_is_named_with_the_package_that_brings_it(project, tmp_path):
    bare = interpreter(tmp_path / "bin", "python3.11", 'case "$2" in *ensurepip*) exit 1 ;; esac')
    done = make(project, "test", f"PYTHON={bare}")
    assert done.returncode != 0
    assert f"error: {bare} cannot create virtual environments" in done.stderr
    assert "python3-venv" in done.stderr


def test_without_any_fitting_python_it_says_which_are_wanted(project, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "make", "date", "sed", "touch"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = make(project, "demo", path=str(tools))
    assert done.returncode != 0
    assert "error: no Python from 3.10 to 3.13 was found" in done.stderr
