"""Opens images in processes of their own, so that no file can stop the one that asks: not by a crash, not by a hang."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from llava.errors import LlavaError

Outcome = tuple[int, int] | str
"""(width, height) of an image, or why it cannot be used."""
Opener = Callable[[str], Outcome]
"""Opens the image of a path; a function of a module, because it runs in another process."""

_BATCH = 16
"""Images that a process is given at a time, so that it seldom waits for the next."""
_START_TIMEOUT_S = 120.0


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    deadline: float
    """When the process is given up: its start, or the image that it is opening, takes too long."""
    is_ready: bool = False
    pending: deque[str] = field(default_factory=deque)
    """The paths that it was given; it is opening the first."""

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def open_all(paths: Sequence[str], opener: Opener, *, workers: int, timeout_s: float) -> Iterator[tuple[str, Outcome]]:
    """Yields each path with its outcome, in the order in which they are known.

    Args:
        workers: number of processes.
        timeout_s: longest time for one image.

    Raises:
        LlavaError: the processes cannot be started.
    """
    waiting = deque(paths)
    running: list[_Worker] = []
    try:
        while waiting or any(worker.pending for worker in running):
            idle = sum(not worker.pending for worker in running)
            while len(running) < workers and idle * _BATCH < len(waiting):
                running.append(_start(opener))
                idle += 1
            for worker in running:
                if worker.is_ready and not worker.pending and waiting:
                    _give(worker, waiting, timeout_s)
            for worker in _due(running):
                yield from _answers(worker, timeout_s)
                if worker.process.exitcode is not None or time.monotonic() >= worker.deadline:
                    yield from _bury(worker, waiting, timeout_s)
                    running.remove(worker)
    finally:
        for worker in running:
            worker.stop()


def _start(opener: Opener) -> _Worker:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, opener), daemon=True)
    process.start()
    there.close()  # so that the end of the process is the end of the connection
    return _Worker(process, here, time.monotonic() + _START_TIMEOUT_S)


def _serve(connection: Connection, opener: Opener) -> None:
    """Opens the images that are sent, one by one, until the other side closes the connection."""
    connection.send(None)  # ready
    try:
        while True:
            for path in connection.recv():
                connection.send(opener(path))
    except (EOFError, OSError, KeyboardInterrupt):
        pass


def _give(worker: _Worker, waiting: deque[str], timeout_s: float) -> None:
    worker.pending.extend(waiting.popleft() for _ in range(min(_BATCH, len(waiting))))
    worker.deadline = time.monotonic() + timeout_s
    with suppress(OSError):  # the process has died, which is noticed when its answers are read
        worker.connection.send(list(worker.pending))


def _due(running: Sequence[_Worker]) -> list[_Worker]:
    """Waits for an answer, the end of a process or a deadline; returns the workers that it concerns."""
    busy = [worker for worker in running if worker.pending or not worker.is_ready]
    next_deadline = min(worker.deadline for worker in busy)
    heard = set(wait([worker.connection for worker in busy], max(0.0, next_deadline - time.monotonic())))
    now = time.monotonic()
    return [worker for worker in busy if worker.connection in heard or now >= worker.deadline]


def _answers(worker: _Worker, timeout_s: float) -> Iterator[tuple[str, Outcome]]:
    """Yields the answers that have arrived."""
    try:
        while worker.connection.poll():
            answer = worker.connection.recv()
            worker.deadline = time.monotonic() + timeout_s
            if worker.is_ready:
                yield worker.pending.popleft(), answer
            worker.is_ready = True
    except (EOFError, OSError):
        worker.process.join()


def _bury(worker: _Worker, waiting: deque[str], timeout_s: float) -> Iterator[tuple[str, Outcome]]:
    """Stops a process that died or hangs, blames the image that it was opening, and gives the others back."""
    code = worker.process.exitcode
    worker.stop()
    if not worker.is_ready:
        raise LlavaError(f"a process for opening images could not be started (exit code {code}).")
    if worker.pending:
        path = worker.pending.popleft()
        died = f"the process that opened it ended with exit code {code}; it may need too much memory"
        yield path, f"{path}: {died if code is not None else f'takes more than {timeout_s:g} s to read'}"
    waiting.extendleft(reversed(worker.pending))
