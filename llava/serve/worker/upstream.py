"""Talks to an OpenAI-compatible engine: streams an answer, reads its queue, gives its errors our names.

Address and key come from the operator alone. Nothing of a client's request but the conversation and its settings
reaches the engine, and of the engine's words only those about a client's own mistake reach the client.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import httpx

from llava.errors import (
    EngineFailed,
    InvalidRequest,
    LlavaError,
    QueueFull,
    RemoteError,
    TryAgain,
    WorkerLost,
    WorkerTimeout,
)
from llava.serve.protocol.sse import json_or_none, read_events
from llava.serve.service.tracing import outgoing_headers

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 300.0
"""Longest wait for the next byte: a long prefill, or a place in the engine's queue."""
QUEUE_GAUGES: Final = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "lmdeploy:num_requests_waiting")

_SAMPLE: Final = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})?\s+(\S+)", re.MULTILINE)
_CLIENTS_FAULT: Final = (400, 413, 415, 422)


@dataclass(frozen=True)
class Upstream:
    """One engine."""

    url: str
    """Where its `/chat/completions` is, such as http://host:8000/v1."""
    model: str
    """What the engine calls its model."""
    client: httpx.AsyncClient

    @classmethod
    def connect(cls, url: str, model: str, key: str | None) -> Upstream:
        """
        Raises:
            InvalidRequest: `url` is no http(s) address.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = None
        # Never shown: a password may stand in it.
        if parsed is None or parsed.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", parsed.host):
            raise InvalidRequest("--backend-url: this is no http(s) address. Write http://HOST:PORT/v1.")
        if parsed.userinfo:
            raise InvalidRequest("--backend-url: write it without user name and password; see --backend-key-env.")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None)
        # A connection a request: one kept alive may be closed by the engine in the moment of the next request.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        client = httpx.AsyncClient(
            headers=headers, timeout=timeout, limits=limits, trust_env=False, follow_redirects=False
        )
        return cls(url.rstrip("/"), model, client)

    async def chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a streamed chat completion. Closing the generator closes the connection, which cancels.

        Raises:
            LlavaError: the engine's refusal or failure, under our own names.
        """
        try:
            async with self.client.stream(
                "POST", f"{self.url}/chat/completions", json={**body, "model": self.model}, headers=outgoing_headers()
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise error_of(
                        response.status_code, json_or_none(response.content), response.headers.get("retry-after")
                    )
                async with aclosing(_events(response)) as events:
                    async for data in events:
                        if data == "[DONE]":
                            return
                        yield _chunk(data)
        except httpx.TimeoutException as error:
            raise WorkerTimeout("the engine behind this worker gave no answer in time. Ask again.") from error
        except httpx.HTTPError as error:
            raise WorkerLost("the engine behind this worker cannot be reached, or broke off. Ask again.") from error

    async def models(self) -> list[str]:
        """The names that the engine serves.

        Raises:
            httpx.HTTPError: no answer, or an error status.
        """
        response = (await self.client.get(f"{self.url}/models", timeout=CONNECT_TIMEOUT_S)).raise_for_status()
        content = json_or_none(response.content)
        entries = content.get("data") if isinstance(content, dict) else None
        return [str(entry.get("id")) for entry in entries or () if isinstance(entry, dict)]

    async def queue_length(self) -> int:
        """Requests that wait inside of the engine, by its Prometheus metrics; 0 where it has none.

        Raises:
            httpx.HTTPError: no answer at all.
        """
        response = await self.client.get(f"{self.url.removesuffix('/v1')}/metrics", timeout=CONNECT_TIMEOUT_S)
        return waiting_requests(response.text) if response.status_code == 200 else 0

    async def close(self) -> None:
        await self.client.aclose()


def waiting_requests(metrics: str) -> int:
    """The depth of an engine's queue in the text of its metrics, all its models together."""
    total = 0.0
    for name, value in _SAMPLE.findall(metrics):
        if name in QUEUE_GAUGES:
            try:
                total += float(value)
            except ValueError:
                continue
    return int(total) if 0 <= total <= 1e6 else 0  # also not for NaN


def error_of(status: int, content: Any, retry_after: str | None = None) -> LlavaError:
    """Our error for what an engine answered."""
    error = content.get("error", content) if isinstance(content, dict) else None
    error = error if isinstance(error, dict) else {}
    if status in _CLIENTS_FAULT:
        message = _fit(str(error.get("message") or "the engine refuses this request"))
        return RemoteError(message, code=_code(error.get("code")) or "invalid_request", status=status)
    if status in (429, 503):
        wait_s = float(retry_after) if retry_after and re.fullmatch(r"\d{1,4}", retry_after) else 1.0
        kind = QueueFull if status == 429 else TryAgain
        return kind("the engine behind this worker is busy. Ask again in a moment.", retry_after_s=wait_s)
    if status in (401, 403, 404):
        return WorkerLost(
            f"the engine behind this worker refuses it (HTTP {status}): its operator should look at the worker's "
            "--backend-url, --backend-model and --backend-key-env."
        )
    if status in (408, 504):
        return WorkerTimeout("the engine behind this worker took too long. Ask again.")
    return EngineFailed(f"the engine behind this worker failed (HTTP {status}). Ask again.")


async def _events(response: httpx.Response) -> AsyncGenerator[str, None]:
    async with aclosing(response.aiter_bytes()) as chunks:  # type: ignore[type-var]
        async for data in read_events(chunks):
            yield data


def _chunk(data: str) -> dict[str, Any]:
    content = json_or_none(data)
    if not isinstance(content, dict):
        raise WorkerLost("the engine behind this worker sends something that is no chat completion.")
    if content.get("error") or content.get("object") == "error":
        error = content.get("error")
        numbers = [error.get(name) for name in ("code", "status")] if isinstance(error, dict) else []
        status = next((number for number in numbers if isinstance(number, int) and 400 <= number < 600), 500)
        raise error_of(status, content)
    return content


def _fit(message: str) -> str:
    """An engine's message fit for a client: one line, not endless, without the addresses of a decoder's memory."""
    message = re.sub(r"0x[0-9a-fA-F]+", "0x…", message[:500])
    return "".join(char if char.isprintable() else " " for char in message)


def _code(code: Any) -> str | None:
    return code if isinstance(code, str) and re.fullmatch(r"[a-z0-9_]{1,64}", code) else None
