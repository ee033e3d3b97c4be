"""Keeps a worker known to its controller: registers, beats, registers again, and takes its leave.

One task on the event loop that nothing waits for: a controller that is slow, wrong or gone costs the worker no request,
no thread and no more than two log lines a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Final

import httpx

from llava.serve.protocol.original import HEART_BEAT_INTERVAL_S, WorkerStatus
from llava.serve.service.security import ClusterToken

log = logging.getLogger(__name__)

LOG_INTERVAL_S: Final = 30.0
FIRST_RETRY_S: Final = 1.0
LEAST_GAP_S: Final = 1.0
"""Between two beats that the worker's load asks for."""
TIMEOUT_S: Final = 10.0


class Heartbeat:
    """Ties one worker to one controller. Belongs to the event loop on which `start` is called."""

    def __init__(
        self,
        controller: str,
        worker: str,
        status: Callable[[], WorkerStatus],
        *,
        token: ClusterToken | None = None,
        interval_s: float = HEART_BEAT_INTERVAL_S,
    ):
        """
        Args:
            controller: its address, such as http://localhost:10000.
            worker: the address under which the controller reaches this worker.
            status: what to tell about this worker now.
            token: proves that this worker belongs to the controller's cluster.
        """
        self.registered = False
        self._controller = controller.rstrip("/")
        self._worker = worker
        self._status = status
        self._headers = token.headers() if token else {}
        self._interval_s = interval_s
        self._client: httpx.AsyncClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._early = asyncio.Event()
        self._last_line_s = float("-inf")
        self._troubled = False

    async def start(self, *, wait_s: float = 5.0) -> None:
        """Begins to register and beat; returns once registered, or after `wait_s` without."""
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="heartbeat")
        for _ in range(max(1, round(wait_s / 0.02))):
            if self.registered:
                return
            await asyncio.sleep(0.02)

    def soon(self) -> None:
        """Asks for a beat before its time, because the worker's load has changed. Costs nothing."""
        self._early.set()

    async def stop(self) -> None:
        """Stops beating and tells the controller that this worker is gone; waits at most a second for it."""
        task, self._task = self._task, None
        if task is None or self._client is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self.registered:
            # A controller of the original has no such route: it forgets us when the beats stay away.
            with contextlib.suppress(httpx.HTTPError):
                await self._post("/deregister_worker", {"worker_name": self._worker}, timeout_s=1.0)
        self.registered = False
        await self._client.aclose()

    async def _run(self) -> None:
        delay_s = 0.0
        retry_s = FIRST_RETRY_S
        while True:
            await self._pause(delay_s)
            try:
                await self._beat()
            except httpx.HTTPStatusError as error:
                self._complain(f"refused this worker: {_reason(error.response)}")
                delay_s, retry_s = _jittered(retry_s), min(2 * retry_s, self._interval_s)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                self._complain(f"cannot be reached ({type(error).__name__})")
                delay_s, retry_s = _jittered(retry_s), min(2 * retry_s, self._interval_s)
            else:
                self._recovered()
                # A little sooner than promised, and no two workers in step.
                delay_s, retry_s = self._interval_s * random.uniform(0.9, 1.0), FIRST_RETRY_S

    async def _pause(self, delay_s: float) -> None:
        """Waits for `delay_s`, or until load has changed; in trouble only time counts."""
        if self._troubled or not self.registered:
            await asyncio.sleep(delay_s)
            return
        least_s = min(LEAST_GAP_S, delay_s)
        await asyncio.sleep(least_s)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._early.wait(), delay_s - least_s)
        self._early.clear()

    async def _beat(self) -> None:
        if self.registered:
            status = self._status()
            answer = await self._post(
                "/receive_heart_beat", {"worker_name": self._worker, "queue_length": status.queue_length}
            )
            known = answer.json()
            self.registered = bool(known.get("exist")) if isinstance(known, dict) else False
        if not self.registered:
            await self._post(
                "/register_worker",
                {
                    "worker_name": self._worker,
                    "check_heart_beat": True,
                    "worker_status": self._status().model_dump(exclude_none=True),
                },
            )
            self.registered = True
            log.info("registered %s with the controller %s", self._worker, self._controller)

    async def _post(self, path: str, body: dict[str, object], timeout_s: float = TIMEOUT_S) -> httpx.Response:
        assert self._client is not None
        answer = await self._client.post(self._controller + path, json=body, headers=self._headers, timeout=timeout_s)
        return answer.raise_for_status()

    def _complain(self, what: str) -> None:
        now = asyncio.get_running_loop().time()
        self._troubled = True
        if now - self._last_line_s >= LOG_INTERVAL_S:
            self._last_line_s = now
            log.warning("the controller %s %s; this worker goes on answering and keeps trying", self._controller, what)

    def _recovered(self) -> None:
        if self._troubled:
            log.info("the controller %s answers again", self._controller)
        self._troubled = False


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)


def _reason(response: httpx.Response) -> str:
    """The controller's own words, if it has any, on one line."""
    try:
        content = response.json()
    except ValueError:
        content = None
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return f"HTTP {response.status_code}" + (f", {str(message)[:300]!r}" if message else "")
