"""Makes many calls to a model, a limited number at a time, and saves each reply as soon as it arrives.

After the first SIGINT or SIGTERM no new calls are made, and the calls in progress are awaited so that none is paid for
in vain. A second signal abandons them.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from llava.command_line import DONE, FAILED
from llava.errors import LlavaError
from llava.eval.data.records import some
from llava.eval.judge.costs import Spending, estimated_usage, money
from llava.eval.judge.model import (
    CallFailed,
    ChatModel,
    JudgeReply,
    Messages,
    NoConnection,
    ServiceBusy,
    ServiceRefuses,
)
from llava.serve.client.openai_client import TokenUsage

T = TypeVar("T")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_STOPPING: Final = "\nStopping after the calls in progress. Press Ctrl-C again to abandon them."
_FAILURES_IN_A_ROW: Final = 3
"""Number of failures after which the service counts as down."""


@dataclass(frozen=True, slots=True)
class Job:
    """One question to the model."""

    name: str
    """Name in messages, such as `question 17`."""
    messages: Messages
    subject: Any
    """The caller's own object, which comes back with the outcome."""


@dataclass(frozen=True, slots=True)
class JudgeOutcome(Generic[T]):
    """The result of a job that got replies."""

    job: Job
    value: T | None
    """What `accept` returned; None if no reply could be used."""
    reason: str | None
    """Why the last reply could not be used; None if it could."""
    reply: JudgeReply
    """The last reply."""
    tries: int
    """Number of calls."""
    usage: TokenUsage
    """Tokens of all calls."""


@dataclass
class RunReport:
    """The result of a run."""

    finished: int = 0
    """Number of jobs that got replies."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Why no reply could be used, by the name of the job."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why there was no reply, by the name of the job."""
    stopped: LlavaError | None = None
    """The error that ended the run early."""
    interrupted: bool = False
    """Whether a signal ended the run early."""
    limit_reached: bool = False
    """Whether the run ended because the other jobs could cost more than --max-cost allows."""


class Unusable(ValueError):
    """A reply cannot be used. The message says why in a few words."""


class JudgeRun(Generic[T]):
    """One run over a list of jobs."""

    def __init__(
        self,
        model: ChatModel,
        spending: Spending,
        accept: Callable[[JudgeReply], T],
        save: Callable[[JudgeOutcome[T]], None],
    ):
        """
        Args:
            accept: extracts the value from a reply. If it raises Unusable, the model is asked again.
            save: is called once per job that got replies, always from the same thread.
        """
        self.model = model
        self.spending = spending
        self.accept = accept
        self.save = save
        self.report = RunReport()
        self._stopping = False
        self._failures_in_a_row = 0
        self._settled = asyncio.Condition()

    async def ask_all(self, jobs: Sequence[Job]) -> RunReport:
        """Asks everything. Returns when all jobs are done, or earlier after an error, a signal or at the cost limit.

        Raises:
            OSError: a result could not be saved. Calls in progress are abandoned.
        """
        with _progress(len(jobs), self._postfix) as advance:
            waiting = iter(jobs)
            workers = [
                asyncio.create_task(self._work(waiting, advance)) for _ in range(self.model.settings.concurrency)
            ]
            with self._signals(workers):
                try:
                    await asyncio.gather(*workers)
                except asyncio.CancelledError:
                    if not self.report.interrupted:
                        raise
                finally:
                    for worker in workers:
                        worker.cancel()
        return self.report

    async def _work(self, waiting: Iterator[Job], advance: Callable[[], None]) -> None:
        while not self._stopping:
            job = next(waiting, None)
            if job is None:
                return
            try:
                outcome = await self._ask(job)
            except CallFailed as error:
                self._count_failure(job, error)
                continue
            except (ServiceRefuses, ServiceBusy) as error:
                self.report.stopped = self.report.stopped or error
                self._stopping = True
                return
            if outcome is None:
                return
            self._failures_in_a_row = 0
            self.save(outcome)
            self.report.finished += 1
            if outcome.reason is not None:
                self.report.unusable[job.name] = outcome.reason
            advance()

    async def _ask(self, job: Job) -> JudgeOutcome[T] | None:
        """Calls the model until a reply can be used. Returns None if the cost limit or a signal came first."""
        used, number = TokenUsage(), 0
        while True:
            called = await self._call(job)
            if called is None:
                return None
            reply, usage = called
            used, number = used + usage, number + 1
            try:
                return JudgeOutcome(job, self.accept(reply), None, reply, number, used)
            except Unusable as error:
                if number == self.model.settings.tries:
                    return JudgeOutcome(job, None, str(error), reply, number, used)

    async def _call(self, job: Job) -> tuple[JudgeReply, TokenUsage] | None:
        reserved = await self._reserve(job.messages)
        if reserved is None:
            return None
        usage = None
        try:
            reply = await self.model.ask(job.messages)
            usage = reply.usage or estimated_usage(job.messages, reply.text)
            return reply, usage
        finally:
            async with self._settled:
                self.spending.settle(reserved, usage)
                self._settled.notify_all()

    async def _reserve(self, messages: Messages) -> float | None:
        """Reserves the cost of a call. Waits as long as calls in progress may still leave enough."""
        async with self._settled:
            while not self._stopping:
                reserved = self.spending.reserve(messages)
                if reserved is not None:
                    return reserved
                if not self.spending.is_waiting:
                    self.report.limit_reached = self._stopping = True
                    break
                await self._settled.wait()
        return None

    def _count_failure(self, job: Job, error: CallFailed) -> None:
        self.report.failed[job.name] = str(error)
        self._failures_in_a_row += 1
        if isinstance(error, NoConnection) and not self.report.finished:
            self.report.stopped = self.report.stopped or CallFailed(f"{error}. Check --base-url.")
            self._stopping = True
        if self._failures_in_a_row >= _FAILURES_IN_A_ROW:
            self.report.stopped = self.report.stopped or CallFailed(
                f"{_FAILURES_IN_A_ROW} calls in a row got no reply. Last error: {error}."
            )
            self._stopping = True

    @contextmanager
    def _signals(self, workers: list[asyncio.Task[None]]) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stopping:
                for worker in workers:
                    worker.cancel()
            else:
                print(_STOPPING, file=sys.stderr)
            self.report.interrupted = self._stopping = True

        for number in _SIGNALS:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _postfix(self) -> str:
        used = self.spending.usage
        text = f"{used.prompt_tokens:,} + {used.completion_tokens:,} tokens"
        return f"{text}, cost {money(self.spending.cost)}" if self.spending.settings.has_prices else text


def report_run(report: RunReport, asked: int, output: Path, spending: Spending) -> int:
    """Reports on standard error what is missing and why, and returns the exit code.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    again = f"{report.finished} of {asked} are finished, in {output}. Repeat the command to continue."
    if report.interrupted:
        print(f"stopped: {again}", file=sys.stderr)
        raise KeyboardInterrupt
    if report.stopped:
        message = f"{report.stopped} {again}"
    elif report.limit_reached:
        limit = f"--max-cost {spending.settings.max_cost:g} (so far: {money(spending.cost)})"
        message = f"the next reply could bring the cost above {limit}. {again}"
    elif report.failed:
        reason = next(iter(report.failed.values()))
        message = f"no reply to {len(report.failed)} of {asked} ({some(report.failed)}). First error: {reason}. {again}"
    else:
        return DONE
    print(f"error: {message}", file=sys.stderr)
    return FAILED


@contextmanager
def _progress(total: int, postfix: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Shows a progress bar on a terminal, and a line every ten seconds elsewhere."""
    from tqdm import tqdm

    is_terminal = sys.stderr.isatty()
    with tqdm(total=total, unit="reply", mininterval=0.1 if is_terminal else 10, ascii=not is_terminal) as bar:

        def advance() -> None:
            bar.set_postfix_str(postfix(), refresh=False)
            bar.update()

        yield advance
