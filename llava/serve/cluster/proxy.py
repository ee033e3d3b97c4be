"""Forwards a request to a worker and streams the worker's answer back, without losing a failure on the way.

Until the first byte of an answer, a request may be retried at a second worker. After that, a worker that disconnects or
falls silent becomes one typed error at the end of the stream. If the client disconnects, the request ends at the worker
as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import anyio
import httpx
from starlette.responses import Response

from llava.errors import InvalidRequest, LlavaError, RemoteError, ShuttingDown, WorkerLost, WorkerTimeout
from llava.serve.cluster.registry import RegisteredWorker, Registry
from llava.serve.cluster.worker_client import WorkerClient, close
from llava.serve.protocol.framing import MAX_PIECE_BYTES, Framing
from llava.serve.service.cancellation import cancel_and_wait
from llava.serve.service.lifecycle import cut_off_error
from llava.serve.service.metrics import Metrics
from llava.serve.service.stream import Stream
from llava.serve.service.tracing import request_id

logger = logging.getLogger("llava.serve.controller")

_MAX_REFUSAL_BYTES: Final = 1024 * 1024
_ATTEMPTS: Final = 2
_CLIENT_GONE: Final = 499
_PASSED_HEADERS: Final = ("content-type", "retry-after")

_TAIL_BYTES: Final = 4096
"""Bytes kept from the end of a stream, enough to see whether it was complete."""

Receive = Callable[[], Awaitable[Any]]


class ClientDisconnected(Exception):
    """The client disconnected before there was anything to send."""


class _ResponseStart(NamedTuple):
    response: httpx.Response
    chunks: AsyncIterator[bytes]
    """The rest of the body after `first`."""
    first: bytes
    """The first piece of the body; empty if there is none."""


@dataclass(slots=True)
class ProxiedAnswer:
    """A worker's answer whose first byte has arrived."""

    worker: RegisteredWorker
    response: httpx.Response
    chunks: AsyncIterator[bytes]
    """The rest of the body after `first`."""
    first: bytes
    """The first piece of the body; empty if there is none."""
    lease: contextlib.ExitStack
    """Counts the request as in progress at the worker until it is closed."""

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def headers(self) -> dict[str, str]:
        """The headers that are passed on to the client."""
        return {name: self.response.headers[name] for name in _PASSED_HEADERS if name in self.response.headers}

    async def close(self) -> None:
        self.lease.close()
        await close(self.response)


class Proxy:
    """Forwards requests to the workers of a registry."""

    def __init__(
        self,
        registry: Registry,
        client: WorkerClient,
        metrics: Metrics,
        *,
        first_token_timeout_s: float,
        idle_timeout_s: float,
    ):
        """
        Args:
            registry: the workers to choose from.
            client: connects to them.
            metrics: the controller's metrics.
            first_token_timeout_s: maximum time from sending a request until the worker's first byte, in seconds.
            idle_timeout_s: maximum time between two pieces of an answer, in seconds.
        """
        self._registry = registry
        self._client = client
        self._metrics = metrics
        self._first_token_timeout_s = first_token_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._cut_off = asyncio.Event()
        self._reading: set[anyio.CancelScope] = set()

    def cut_off(self) -> None:
        """Ends all answers in progress, each with an error that its client receives."""
        self._cut_off.set()
        for scope in self._reading:
            scope.cancel()

    async def forward(self, receive: Receive, path: str, model: str, body: bytes, framing: Framing) -> Response:
        """Returns the response of a worker that serves `model`.

        Args:
            receive: the request's own `receive`, which reports that the client has disconnected.
            path: the worker's route.
            model: name of the model.
            body: the request's body, forwarded unchanged.
            framing: where a stream of this kind may be cut, and how it ends.

        Raises:
            ModelNotFound, NoWorker: see `Registry.choose`.
            WorkerLost, WorkerTimeout, ShuttingDown: no answer has begun.
            RemoteError: the worker refused for a reason that is not the client's fault.
            InvalidRequest: the worker does not have this route.
        """
        began_s = time.monotonic()
        try:
            answer = await self._open(receive, path, model, body)
        except ClientDisconnected:
            self._count(model, "aborted")
            self._metrics.aborted.labels("disconnect").inc()
            return Response(status_code=_CLIENT_GONE)
        except LlavaError as error:
            # Clients must not be able to create metric labels.
            self._count(model if error.code != "model_not_found" else "unknown", error.code)
            raise
        self._metrics.ttft_seconds.observe(time.monotonic() - began_s)
        if answer.status != 200:
            self._count(model, str(answer.status))
            return await self._refusal(answer, path)
        headers = {**answer.headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
        return Stream(self._stream(answer, model, framing, began_s), headers=headers, on_close=answer.close)

    # Until the first byte

    async def _open(self, receive: Receive, path: str, model: str, body: bytes) -> ProxiedAnswer:
        tried: list[RegisteredWorker] = []
        while True:
            worker = self._registry.choose(model, exclude=tried)
            tried.append(worker)
            try:
                answer = await self._ask(receive, worker, path, body)
            except (WorkerLost, WorkerTimeout) as error:
                self._failed(worker, error)
                if not self._may_retry(model, tried):
                    raise
            else:
                if answer.status != 503 or not self._may_retry(model, tried):
                    return answer
                await answer.close()  # the worker is full or shuts down; it has not begun to answer
            self._metrics.retries.inc()

    def _may_retry(self, model: str, tried: list[RegisteredWorker]) -> bool:
        if len(tried) >= _ATTEMPTS:
            return False
        try:
            self._registry.choose(model, exclude=tried)
        except LlavaError:
            return False
        return True

    async def _ask(self, receive: Receive, worker: RegisteredWorker, path: str, body: bytes) -> ProxiedAnswer:
        with contextlib.ExitStack() as lease:
            lease.enter_context(self._registry.lease(worker))
            starting = asyncio.ensure_future(self._start(worker, path, body))
            removed = asyncio.ensure_future(worker.gone.wait())
            disconnected = asyncio.ensure_future(_disconnect(receive))
            cut_off = asyncio.ensure_future(self._cut_off.wait())
            try:
                await asyncio.wait(
                    {starting, removed, disconnected, cut_off},
                    timeout=self._first_token_timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if disconnected.done():
                    raise ClientDisconnected
                if cut_off.done():
                    raise cut_off_error()
                if not starting.done():
                    raise self._no_first_byte(worker)
            except BaseException:
                await _abandon(starting)
                raise
            finally:
                for watcher in (removed, disconnected, cut_off):
                    watcher.cancel()
            response, chunks, first = starting.result()
            return ProxiedAnswer(worker, response, chunks, first, lease.pop_all())

    def _no_first_byte(self, worker: RegisteredWorker) -> LlavaError:
        if worker.gone.is_set():
            return WorkerLost(f"{_described(worker)} stopped responding. Send the request again.")
        return WorkerTimeout(f"{_described(worker)} did not respond within {self._first_token_timeout_s:g} s.")

    async def _start(self, worker: RegisteredWorker, path: str, body: bytes) -> _ResponseStart:
        try:
            response = await self._client.send(worker, path, body)
        except httpx.HTTPError as error:
            raise _lost(worker, error) from error
        chunks = response.aiter_raw()
        try:
            return _ResponseStart(response, chunks, await anext(chunks, b""))
        except httpx.HTTPError as error:
            await close(response)
            raise _lost(worker, error) from error
        except asyncio.CancelledError:
            await close(response)
            raise

    # Refusals

    async def _refusal(self, answer: ProxiedAnswer, path: str) -> Response:
        """Returns a worker's error response, passed on if it is about the request."""
        try:
            body = await self._read_refusal(answer)
        finally:
            await answer.close()
        worker, status = answer.worker, answer.status
        content_type = answer.headers.get("content-type", "")
        if status in (401, 403):
            logger.error(
                "Worker %s refuses this controller with HTTP %d. Check its API keys and cluster token",
                worker.name,
                status,
            )
            raise RemoteError(
                f"{_described(worker)} does not accept requests from this server.", code="worker_lost", status=502
            )
        if status in (404, 405) and b'"error"' not in body:
            raise InvalidRequest(f"{_described(worker)} does not support {path}, only the other protocol.")
        if "json" not in content_type and "octet-stream" not in content_type:
            raise RemoteError(f"{_described(worker)} failed with HTTP {status}.", code="worker_lost", status=502)
        return Response(body, status, answer.headers)

    async def _read_refusal(self, answer: ProxiedAnswer) -> bytes:
        body = bytearray(answer.first)
        try:
            while len(body) < _MAX_REFUSAL_BYTES and (chunk := await self._next(answer)):
                body += chunk
        except (WorkerLost, WorkerTimeout):
            logger.warning("Worker %s disconnected in the middle of an error response", answer.worker.name)
        return bytes(body)

    # Answers

    async def _stream(
        self, answer: ProxiedAnswer, model: str, framing: Framing, began_s: float
    ) -> AsyncGenerator[bytes, None]:
        outcome = "aborted"
        try:
            async with contextlib.aclosing(self._whole_pieces(answer, framing)) as pieces:
                async for piece in pieces:
                    yield piece
            answer.worker.answered()
            outcome = "ok"
        except (WorkerLost, WorkerTimeout) as error:
            outcome = error.code
            self._failed(answer.worker, error)
            yield framing.failure(error, request_id())
        except ShuttingDown as error:
            outcome = error.code
            self._metrics.aborted.labels("shutdown").inc()
            yield framing.failure(error, request_id())
        finally:
            self._count(model, outcome)
            self._metrics.e2e_seconds.observe(time.monotonic() - began_s)
            if outcome == "aborted":
                self._metrics.aborted.labels("disconnect").inc()
            await answer.close()

    async def _whole_pieces(self, answer: ProxiedAnswer, framing: Framing) -> AsyncGenerator[bytes, None]:
        """Yields the answer, cut only where `framing` allows.

        Raises:
            WorkerLost: the answer ended early or is not a stream of this kind.
            WorkerTimeout, ShuttingDown: see `_next`.
        """
        rest, tail = bytearray(answer.first), b""
        while True:
            end = framing.cut(rest)
            if end:
                tail = (tail + bytes(rest[max(0, end - _TAIL_BYTES) : end]))[-_TAIL_BYTES:]
                yield bytes(rest[:end])
                del rest[:end]
            if len(rest) > MAX_PIECE_BYTES:
                raise WorkerLost(f"{_described(answer.worker)} sent something that is not a stream of answers.")
            chunk = await self._next(answer)
            if not chunk:
                break
            rest += chunk
        if not framing.is_over(bytes(rest), tail):
            raise _interrupted(answer.worker)
        if rest:
            yield bytes(rest)

    async def _next(self, answer: ProxiedAnswer) -> bytes:
        """Returns the next bytes of an answer; none at its end.

        Raises:
            WorkerLost: the worker disconnected.
            WorkerTimeout: the worker sent nothing for too long.
            ShuttingDown: this server is shutting down and no longer waits.
        """
        try:
            with anyio.fail_after(self._idle_timeout_s) as scope:
                self._reading.add(scope)
                if not self._cut_off.is_set():
                    return await anext(answer.chunks, b"")
            raise cut_off_error()
        except TimeoutError as error:
            raise WorkerTimeout(
                f"{_described(answer.worker)} sent nothing for {self._idle_timeout_s:g} s. The answer was abandoned."
            ) from error
        except httpx.HTTPError as error:
            raise _lost(answer.worker, error) from error
        finally:
            self._reading.discard(scope)

    def _failed(self, worker: RegisteredWorker, error: LlavaError) -> None:
        logger.warning("Worker %s gets no requests until its next heartbeat: %s", worker.name, error)
        self._registry.failed(worker)

    def _count(self, model: str, outcome: str) -> None:
        self._metrics.requests.labels(model, outcome).inc()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _abandon(starting: asyncio.Future[_ResponseStart]) -> None:
    await cancel_and_wait(starting)
    if not starting.cancelled() and starting.exception() is None:
        await close(starting.result().response)


def _lost(worker: RegisteredWorker, error: httpx.HTTPError) -> WorkerLost:
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return WorkerLost(f"{_described(worker)} cannot be reached. Send the request again in a moment.")
    logger.info("Connection to worker %s failed: %s", worker.name, type(error).__name__)
    return _interrupted(worker)


def _interrupted(worker: RegisteredWorker) -> WorkerLost:
    return WorkerLost(f"{_described(worker)} disconnected in the middle of the answer. Send the request again.")


def _described(worker: RegisteredWorker) -> str:
    """Describes a worker to clients, who must not learn its address."""
    return f"the worker of model {worker.model_names[0]!r}"
