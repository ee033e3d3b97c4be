"""What all tests share: settings of libraries, paths, and a way to run a command as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Before any library reads them; child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models of the tests are too small to gain from more

RunCommand = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--browser-tests", choices=("only", "none"), help="Run only the tests that use a browser, or none of them."
    )
    parser.addoption("--screenshots", metavar="DIR", help="Folder to save screenshots of the web page to.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--browser-tests")
    if wanted:
        chosen = [item for item in items if (item.get_closest_marker("browser") is not None) == (wanted == "only")]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def data() -> Path:
    """The golden checkpoints, images and vectors."""
    return REPOSITORY / "tests" / "data"


@pytest.fixture(scope="session")
def run_python() -> RunCommand:
    """Runs `python ARGUMENTS...` in a child process, in the repository unless `cwd` says otherwise."""

    def run(*arguments: str | Path, cwd: Path = REPOSITORY, timeout: float = 300, **environment: str):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "120", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def run_warm() -> RunCommand:
    """The same for tests to which it does not matter how long an interpreter takes to start, or what it imports."""
    from tests.support.warm_python import warm_environment

    def run(*arguments: str | Path, cwd: Path = REPOSITORY, timeout: float = 300, **environment: str):
        return subprocess.run(
            ["python", *map(str, arguments)],
            cwd=cwd,
            env={**warm_environment(), "COLUMNS": "120", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
