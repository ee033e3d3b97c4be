"""Runs training commands in forked processes that may kill themselves at a chosen moment.

As a program it imports everything once and forks a process (or a group of two) for each job of a file: a start takes a
tenth of a second then, not ten. A group is what a launcher would start: when one process dies, the others are killed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Kill:
    """A moment at which a process sends itself SIGKILL."""

    function: str
    """`module:name` or `module:Class.name`; the process dies as it is called, before it does anything."""
    call: int = 1
    """Which call of it, counted from 1."""
    rank: int = 0
    """Which process of the group dies."""


@dataclass(frozen=True, slots=True)
class Job:
    """One command."""

    name: str
    flags: tuple[str, ...]
    processes: int = 1
    kill: Kill | None = None
    loads_any_value: bool = False
    """Whether weights that are NaN are loaded, to see what a run makes of a loss that is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended."""

    codes: tuple[int, ...]
    """Exit code of each process, negative for a signal."""
    printed: str
    """What all processes printed."""


def perform(work: Path, jobs: Sequence[Job], *, timeout: float = 500) -> dict[str, Outcome]:
    """Performs jobs one after the other; returns how each ended, by name."""
    file = work / "jobs.json"
    file.write_text(json.dumps([asdict(job) for job in jobs]))
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.forked_runs", str(file)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    codes = json.loads((work / "codes.json").read_text())
    return {name: Outcome(tuple(ended), (work / f"{name}.log").read_text()) for name, ended in codes.items()}


def _perform_all(file: Path) -> None:
    import torch

    from llava.train import train

    torch.set_num_threads(1)
    _warm_up()
    codes = {}
    for job in json.loads(file.read_text()):
        port = _free_port()
        log = (file.parent / f"{job['name']}.log").open("w")
        children = {_start(train, job, rank, port, log.fileno()): rank for rank in range(job["processes"])}
        codes[job["name"]] = _wait_for(children)
        log.close()
    (file.parent / "codes.json").write_text(json.dumps(codes))


def _warm_up() -> None:
    """Does once what each process would do at its start."""
    import llava.model
    import llava.train

    for package in (llava.model, llava.train):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in ("transformers.trainer", "peft", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict"):
        importlib.import_module(name)
    importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("clip_vision_model")
    # A collection in a process then passes over what was made before it.
    gc.collect()
    gc.freeze()


def _start(train: Any, job: dict[str, Any], rank: int, port: int, log: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        if job["processes"] > 1:
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["processes"], "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in numbers.items()})
            os.environ.update(LOCAL_WORLD_SIZE=str(job["processes"]), MASTER_ADDR="127.0.0.1")
        if job["loads_any_value"]:
            importlib.import_module("llava.train.parallel.loading").check_finite = lambda tensor, *_: tensor
        if job["kill"] and job["kill"]["rank"] == rank:
            _arm(**job["kill"])
        code = train.main(list(job["flags"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _arm(function: str, call: int, rank: int) -> None:
    """Replaces a function by one that kills the process at a certain call."""
    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, left = getattr(owner, name), [call]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)


def _wait_for(children: dict[int, int]) -> list[int]:
    """Waits for a group; kills the others as soon as one has failed, as a launcher does."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        child, status = os.waitpid(-1, 0)
        codes[children[child]] = os.waitstatus_to_exitcode(status)
        if codes[children[child]] != 0:
            time.sleep(0.1)  # let the others notice that it is gone, in the middle of what they do
            for other, rank in children.items():
                if rank not in codes:
                    os.kill(other, signal.SIGKILL)
    return [codes[rank] for rank in sorted(codes)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    _perform_all(Path(sys.argv[1]))
