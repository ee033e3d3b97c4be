"""Asks an OpenAI-compatible engine on behalf of a worker, and decides what a client may learn about its failures.

The address and the key come from the operator alone. Of a client's request, only the conversation and its settings
reach the engine; of the engine's error messages, only those about a mistake of the client reach the client.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

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
from llava.serve.client.http_errors import is_http_url
from llava.serve.client.openai_client import ChatChunk, OpenAIClient
from llava.serve.service.tracing import outgoing_headers

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 300.0
"""Longest wait for the next byte: a long prefill, or a place in the engine's queue."""
QUEUE_GAUGES: Final = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "lmdeploy:num_requests_waiting")

_SAMPLE: Final = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})?\s+(\S+)", re.MULTILINE)
_CLIENTS_FAULT: Final = (400, 413, 415, 422)
_LONGEST_WAIT_S: Final = 9999.0


@dataclass(frozen=True)
class Upstream:
    """An engine and one of its models."""

    model: str
    """The engine's own name for the model."""
    client: OpenAIClient

    @classmethod
    def connect(cls, url: str, model: str, key: str | None) -> Upstream:
        """Returns the engine at `url`; nothing is sent yet.

        Raises:
            InvalidRequest: `url` is not an http(s) URL.
        """
        # The address is not shown: it may contain a password.
        if not is_http_url(url):
            raise InvalidRequest("--backend-url: not an http(s) URL. Write http://HOST:PORT/v1.")
        if "@" in urlsplit(url).netloc:
            raise InvalidRequest("--backend-url: must not contain a user name or password. Use --backend-key-env.")
        return cls(
            model,
            OpenAIClient(url, key=key or "", timeout_s=SILENCE_TIMEOUT_S, connect_timeout_s=CONNECT_TIMEOUT_S),
        )

    @property
    def url(self) -> str:
        """Where the engine's `/chat/completions` is, such as http://host:8000/v1."""
        return self.client.base_url

    async def chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[ChatChunk, None]:
        """Yields the chunks of a streamed chat completion. Closing the generator cancels the request in the engine.

        Raises:
            LlavaError: the engine's refusal or failure, in words that are fit for a client.
        """
        try:
            async with aclosing(
                self.client.stream_chat({**body, "model": self.model}, headers=outgoing_headers())
            ) as chunks:
                async for chunk in chunks:
                    yield chunk
        except RemoteError as error:
            raise _for_clients(error) from error
        except WorkerTimeout as error:
            raise WorkerTimeout("the engine behind this worker did not answer in time. Ask again.") from error
        except WorkerLost as error:
            raise WorkerLost("the engine behind this worker cannot be reached, or broke off. Ask again.") from error

    async def models(self) -> list[str]:
        """Returns the names of the models that the engine serves. Raises what `OpenAIClient.models` raises."""
        return await self.client.models()

    async def queue_length(self) -> int:
        """Returns how many requests wait inside the engine, by its Prometheus metrics; 0 if it has no metrics.

        Raises:
            WorkerLost, WorkerTimeout: the engine does not answer.
        """
        try:
            text = await self.client.text(f"{self.client.address}/metrics", timeout=CONNECT_TIMEOUT_S)
        except RemoteError:
            return 0
        return waiting_requests(text)

    async def close(self) -> None:
        await self.client.close()


def waiting_requests(metrics: str) -> int:
    """Returns the length of an engine's queue, summed over its models, from the text of its metrics."""
    total = 0.0
    for name, value in _SAMPLE.findall(metrics):
        if name in QUEUE_GAUGES:
            try:
                total += float(value)
            except ValueError:
                continue
    return int(total) if 0 <= total <= 1e6 else 0  # the comparison is also false for NaN


def _for_clients(error: RemoteError) -> LlavaError:
    """The error for a client, from what the engine reported."""
    status = error.status
    if status in _CLIENTS_FAULT:
        code = error.code if re.fullmatch(r"[a-z0-9_]{1,64}", error.code) else "invalid_request"
        return RemoteError(_one_line(str(error)), code=code, status=status)
    if status in (429, 503):
        busy = "the engine behind this worker is busy. Ask again in a moment."
        kind = QueueFull if status == 429 else TryAgain
        return kind(busy, retry_after_s=min(error.retry_after_s or 1.0, _LONGEST_WAIT_S))
    if status in (401, 403, 404):
        return WorkerLost(
            f"the engine behind this worker refused the request (HTTP {status}). The operator should check the "
            "worker's --backend-url, --backend-model and --backend-key-env."
        )
    if status in (408, 504):
        return WorkerTimeout("the engine behind this worker took too long. Ask again.")
    return EngineFailed(f"the engine behind this worker failed (HTTP {status}). Ask again.")


def _one_line(message: str) -> str:
    """An engine's message as one line of bounded length, without memory addresses."""
    message = re.sub(r"0x[0-9a-fA-F]+", "0x…", message[:500])
    return "".join(char if char.isprintable() else " " for char in message)
