"""Keeps a worker registered with its controller: registers, sends heartbeats, registers again, and deregisters.

Runs as one task on the event loop that nothing waits for: a slow, faulty or lost controller costs the worker no
request, no thread and at most two log lines per minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Final

import httpx

from llava.constants import WORKER_HEART_BEAT_INTERVAL
from llava.serve.protocol.original import WorkerStatus
from llava.serve.service.security import ClusterToken

log = logging.getLogger(__name__)

LOG_INTERVAL_S: Final = 30.0
"""Shortest time between two warnings about the controller."""
FIRST_RETRY_S: Final = 1.0
"""Delay before the first retry; it doubles with each further one."""
MIN_GAP_S: Final = 1.0
"""Shortest time between two heartbeats, however often the load changes."""
TIMEOUT_S: Final = 10.0
"""Timeout of a request to the controller."""


class Heartbeat:
    """Keeps one worker registered with one controller. Belongs to the event loop on which `start` is called."""

    def __init__(
        self,
        controller: str,
        worker: str,
        status: Callable[[], WorkerStatus],
        *,
        token: ClusterToken | None = None,
        interval_s: float = WORKER_HEART_BEAT_INTERVAL,
    ):
        """
        Args:
            controller: URL of the controller, such as http://localhost:10000.
            worker: URL at which the controller reaches this worker.
            status: returns the current state of this worker.
            token: proves that this worker belongs to the controller's cluster.
            interval_s: seconds between two heartbeats.
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
        """Starts to register and to send heartbeats; returns once registered, or after `wait_s` seconds."""
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="heartbeat")
        for _ in range(max(1, round(wait_s / 0.02))):
            if self.registered:
                return
            await asyncio.sleep(0.02)

    def soon(self) -> None:
        """Requests an early heartbeat, because the worker's load has changed. Returns at once."""
        self._early.set()

    async def stop(self) -> None:
        """Stops the heartbeats and deregisters the worker, waiting at most one second for the controller."""
        task, self._task = self._task, None
        if task is None or self._client is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self.registered:
            # The original's controller has no such route; it drops the worker when no more heartbeats arrive.
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
                self._complain(f"refused this worker ({_reason(error.response)})")
                delay_s, retry_s = _jittered(retry_s), min(2 * retry_s, self._interval_s)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                self._complain(f"cannot be reached ({type(error).__name__})")
                delay_s, retry_s = _jittered(retry_s), min(2 * retry_s, self._interval_s)
            else:
                self._recovered()
                # Slightly early, so that no heartbeat is late and workers do not stay synchronised.
                delay_s, retry_s = self._interval_s * random.uniform(0.9, 1.0), FIRST_RETRY_S

    async def _pause(self, delay_s: float) -> None:
        """Waits for `delay_s` seconds, or until the load changes; load does not count while the controller fails."""
        if self._troubled or not self.registered:
            await asyncio.sleep(delay_s)
            return
        min_s = min(MIN_GAP_S, delay_s)
        await asyncio.sleep(min_s)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._early.wait(), delay_s - min_s)
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
            log.info("Registered %s with the controller %s.", self._worker, self._controller)

    async def _post(self, path: str, body: dict[str, object], timeout_s: float = TIMEOUT_S) -> httpx.Response:
        assert self._client is not None
        answer = await self._client.post(self._controller + path, json=body, headers=self._headers, timeout=timeout_s)
        return answer.raise_for_status()

    def _complain(self, what: str) -> None:
        now = asyncio.get_running_loop().time()
        self._troubled = True
        if now - self._last_line_s >= LOG_INTERVAL_S:
            self._last_line_s = now
            log.warning(
                "The controller %s %s. This worker continues to answer and keeps trying to register.",
                self._controller,
                what,
            )

    def _recovered(self) -> None:
        if self._troubled:
            log.info("The controller %s answers again.", self._controller)
        self._troubled = False


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)


def _reason(response: httpx.Response) -> str:
    """Returns the status and, if the controller gives one, its error message."""
    try:
        content = response.json()
    except ValueError:
        content = None
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return f"HTTP {response.status_code}" + (f", {str(message)[:300]!r}" if message else "")
