"""Passes a request to a worker and the worker's stream back, so that no failure on the way is silent.

Until the first byte of an answer a request may go to a second worker; after it, a worker that breaks off or falls
silent becomes one typed error at the end of the stream. A client that leaves ends the request at the worker, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio
import httpx
from starlette.responses import Response

from llava.errors import InvalidRequest, LlavaError, RemoteError, ShuttingDown, WorkerLost, WorkerTimeout
from llava.serve.cluster.registry import Registry, Worker
from llava.serve.cluster.worker_client import WorkerClient, close
from llava.serve.protocol.framing import MAX_PIECE_BYTES, Framing
from llava.serve.service.app import Stream
from llava.serve.service.lifecycle import not_waited_for
from llava.serve.service.metrics import Metrics
from llava.serve.service.tracing import request_id

logger = logging.getLogger("llava.serve.controller")

_MAX_REFUSAL_BYTES: Final = 1024 * 1024
_ATTEMPTS: Final = 2
_CLIENT_GONE: Final = 499
_PASSED_HEADERS: Final = ("content-type", "retry-after")

_LAST_BYTES: Final = 4096
"""Enough of a stream's end to see whether it was one."""

Receive = Callable[[], Awaitable[Any]]
Head = tuple[httpx.Response, AsyncIterator[bytes], bytes]
"""A response, the pieces of its body that are still to come, and the first."""


class ClientGone(Exception):
    """The client left before there was anything to send it."""


@dataclass(slots=True)
class Answer:
    """A worker's answer, as far as it has come."""

    worker: Worker
    response: httpx.Response
    chunks: AsyncIterator[bytes]
    first: bytes
    """Empty when the answer ended before it began."""
    leave: contextlib.ExitStack
    """Takes the request out of the worker's count."""

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def headers(self) -> dict[str, str]:
        return {name: self.response.headers[name] for name in _PASSED_HEADERS if name in self.response.headers}

    async def close(self) -> None:
        self.leave.close()
        await close(self.response)


class Relay:
    """Sends requests to the workers of a registry."""

    def __init__(
        self,
        registry: Registry,
        client: WorkerClient,
        metrics: Metrics,
        *,
        first_token_timeout_s: float,
        idle_timeout_s: float,
    ):
        self._registry = registry
        self._client = client
        self._metrics = metrics
        self._first_token_timeout_s = first_token_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._cut_off = asyncio.Event()
        self._reading: set[anyio.CancelScope] = set()

    def cut_off(self) -> None:
        """Ends all answers under way, each with an error that its client is told."""
        self._cut_off.set()
        for scope in self._reading:
            scope.cancel()

    async def answer(self, receive: Receive, path: str, model: str, body: bytes, framing: Framing) -> Response:
        """The answer to `body` of whichever worker gives one.

        Args:
            receive: the request's; tells when the client leaves.
            path: of the worker's route.
            body: passed on as it is.

        Raises:
            ModelNotFound, NoWorker: see `Registry.choose`.
            WorkerLost, WorkerTimeout, ShuttingDown: no answer began.
            RemoteError: the worker refused for a reason that is none of the client's.
        """
        began_s = time.monotonic()
        try:
            answer = await self._open(receive, path, model, body)
        except ClientGone:
            self._count(model, "aborted")
            self._metrics.aborted.labels("disconnect").inc()
            return Response(status_code=_CLIENT_GONE)
        except LlavaError as error:
            known = model if error.code != "model_not_found" else "unknown"  # labels are not for clients to invent
            self._count(known, error.code)
            raise
        self._metrics.ttft_seconds.observe(time.monotonic() - began_s)
        if answer.status != 200:
            self._count(model, str(answer.status))
            return await self._refusal(answer, path)
        headers = {**answer.headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
        return Stream(self._pass_on(answer, model, framing, began_s), headers=headers, on_close=answer.close)

    async def _open(self, receive: Receive, path: str, model: str, body: bytes) -> Answer:
        tried: list[Worker] = []
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
                await answer.close()  # it is full or shuts down: nothing was begun
            self._metrics.retries.inc()

    def _may_retry(self, model: str, tried: list[Worker]) -> bool:
        if len(tried) >= _ATTEMPTS:
            return False
        try:
            self._registry.choose(model, exclude=tried)
        except LlavaError:
            return False
        return True

    async def _ask(self, receive: Receive, worker: Worker, path: str, body: bytes) -> Answer:
        with contextlib.ExitStack() as leave:
            leave.enter_context(self._registry.lease(worker))
            head = asyncio.ensure_future(self._begin(worker, path, body))
            gone = asyncio.ensure_future(worker.gone.wait())
            left = asyncio.ensure_future(_left(receive))
            cut = asyncio.ensure_future(self._cut_off.wait())
            try:
                await asyncio.wait(
                    {head, gone, left, cut}, timeout=self._first_token_timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
                if left.done():
                    raise ClientGone
                if cut.done():
                    raise not_waited_for()
                if not head.done():
                    raise self._silent(worker)
            except BaseException:
                await _abandon(head)
                raise
            finally:
                for watch in (gone, left, cut):
                    watch.cancel()
            response, chunks, first = head.result()
            return Answer(worker, response, chunks, first, leave.pop_all())

    def _silent(self, worker: Worker) -> LlavaError:
        if worker.gone.is_set():
            return WorkerLost(f"{_described(worker)} has gone silent. Send the request again.")
        return WorkerTimeout(f"{_described(worker)} sent nothing for {self._first_token_timeout_s:g} s.")

    async def _begin(self, worker: Worker, path: str, body: bytes) -> Head:
        try:
            response = await self._client.send(worker, path, body)
        except httpx.HTTPError as error:
            raise _lost(worker, error) from error
        chunks = response.aiter_raw()
        try:
            return response, chunks, await anext(chunks, b"")
        except httpx.HTTPError as error:
            await close(response)
            raise _lost(worker, error) from error
        except asyncio.CancelledError:
            await close(response)
            raise

    async def _refusal(self, answer: Answer, path: str) -> Response:
        """What a worker says instead of an answer: passed on where it is about the request."""
        try:
            body = await self._rest(answer)
        finally:
            await answer.close()
        worker, status = answer.worker, answer.status
        kind = answer.headers.get("content-type", "")
        if status in (401, 403):
            logger.error(
                "worker %s refuses this controller with HTTP %d: check its keys and token", worker.name, status
            )
            raise RemoteError(f"{_described(worker)} does not take requests from here.", code="worker_lost", status=502)
        if status in (404, 405) and b'"error"' not in body:
            raise InvalidRequest(f"{_described(worker)} does not answer {path}; it speaks the other protocol only.")
        if "json" not in kind and "octet-stream" not in kind:
            raise RemoteError(f"{_described(worker)} failed with HTTP {status}.", code="worker_lost", status=502)
        return Response(body, status, answer.headers)

    async def _rest(self, answer: Answer) -> bytes:
        body = bytearray(answer.first)
        try:
            while len(body) < _MAX_REFUSAL_BYTES and (chunk := await self._next(answer)):
                body += chunk
        except (WorkerLost, WorkerTimeout):
            logger.warning("worker %s broke off in the middle of a refusal", answer.worker.name)
        return bytes(body)

    async def _pass_on(
        self, answer: Answer, model: str, framing: Framing, began_s: float
    ) -> AsyncGenerator[bytes, None]:
        worker, outcome = answer.worker, "aborted"
        rest, last = bytearray(answer.first), b""
        try:
            while True:
                whole = framing.cut(rest)
                if whole:
                    last = (last + bytes(rest[max(0, whole - _LAST_BYTES) : whole]))[-_LAST_BYTES:]
                    yield bytes(rest[:whole])
                    del rest[:whole]
                if len(rest) > MAX_PIECE_BYTES:
                    raise WorkerLost(f"{_described(worker)} sends something that is no stream of answers.")
                chunk = await self._next(answer)
                if not chunk:
                    break
                rest += chunk
            if not framing.is_over(bytes(rest), last):
                raise WorkerLost(f"{_described(worker)} broke off in the middle of the answer. Send the request again.")
            if rest:
                yield bytes(rest)
            worker.answered()
            outcome = "ok"
        except (WorkerLost, WorkerTimeout) as error:
            outcome = error.code
            self._failed(worker, error)
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

    async def _next(self, answer: Answer) -> bytes:
        """The next bytes, none at the end.

        Raises:
            WorkerLost: the worker broke off.
            WorkerTimeout: nothing came for too long.
            ShuttingDown: this server waits no longer.
        """
        try:
            with anyio.fail_after(self._idle_timeout_s) as scope:
                self._reading.add(scope)
                if not self._cut_off.is_set():
                    return await anext(answer.chunks, b"")
            raise not_waited_for()
        except TimeoutError as error:
            raise WorkerTimeout(
                f"{_described(answer.worker)} sent nothing for {self._idle_timeout_s:g} s, and the answer was given up."
            ) from error
        except httpx.HTTPError as error:
            raise _lost(answer.worker, error) from error
        finally:
            self._reading.discard(scope)

    def _failed(self, worker: Worker, error: LlavaError) -> None:
        logger.warning("worker %s: %s; no requests until it is heard of", worker.name, error)
        self._registry.failed(worker)

    def _count(self, model: str, outcome: str) -> None:
        self._metrics.requests.labels(model, outcome).inc()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _abandon(head: asyncio.Future[Head]) -> None:
    head.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.wait({head})
        if not head.cancelled() and head.exception() is None:
            await close(head.result()[0])


def _lost(worker: Worker, error: httpx.HTTPError) -> WorkerLost:
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return WorkerLost(f"{_described(worker)} cannot be reached. Send the request again in a moment.")
    logger.info("worker %s: %s", worker.name, type(error).__name__)
    return WorkerLost(f"{_described(worker)} broke off in the middle of the answer. Send the request again.")


def _described(worker: Worker) -> str:
    """A worker in words for clients, who are not to learn its address."""
    return f"the worker of model {worker.model_names[0]!r}"
