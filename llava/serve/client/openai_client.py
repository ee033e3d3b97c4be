"""The client of OpenAI-compatible services, shared by page, terminal, evaluation and the worker for other engines.

It is built on httpx rather than on the `openai` library: importing the library takes 0.7 s of CPU (httpx: 0.2 s), more
than a command that computes nothing may take, and the library puts no bound on a line of a stream.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import os
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Final

import httpx

from llava.errors import InvalidRequest, WorkerLost
from llava.serve.client.http_errors import (
    CONNECT_TIMEOUT_S,
    USER_AGENT,
    bearer,
    broke_off,
    connection_error,
    is_http_url,
    not_a_url,
    parsed_json,
    remote_error,
)
from llava.serve.client.sse import read_events

OPENAI_URL: Final = "https://api.openai.com/v1"

_LIST_TIMEOUT_S: Final = 10.0
_RETRIED_STATUSES: Final = (408, 409, 429)
"""Retried besides 5xx."""
_FIRST_DELAY_S: Final = 0.5
_LONGEST_DELAY_S: Final = 8.0
_LONGEST_RETRY_AFTER_S: Final = 120.0
"""A service that asks for more patience than this is not asked again."""


class ProtocolError(WorkerLost):
    """An answer that does not follow OpenAI's protocol; `excerpt` is its beginning."""

    def __init__(self, address: str, excerpt: str = ""):
        super().__init__(f"{address}: the answer does not follow the protocol. Is this an OpenAI-compatible server?")
        self.excerpt = excerpt[:80]


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Token counts, as a service reports them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    @classmethod
    def read(cls, usage: Any) -> TokenUsage | None:
        """The counts in the `usage` of a completion; None if the service does not report both."""
        if not isinstance(usage, dict):
            return None
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not (isinstance(prompt, int) and isinstance(completion, int)) or min(prompt, completion) < 0:
            return None
        return cls(prompt, completion)


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """One chunk of a streamed chat completion."""

    text: str = ""
    finish_reason: str | None = None
    """Set in the chunk that ends the answer: `stop`, `length`, or another reason of the service's."""
    usage: TokenUsage | None = None
    """Set once, after the end, if the service reports it."""


class OpenAIClient:
    """An OpenAI-compatible service; an async context manager."""

    def __init__(
        self,
        base_url: str,
        *,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_retries: int = 0,
        hosted: bool = False,
    ):
        """
        Args:
            base_url: where the service's `/chat/completions` is, such as http://localhost:8000/v1.
            key: the API key; empty sends none.
            headers: sent with each request.
            timeout_s: longest wait for the next byte.
            max_retries: how often a request that is not streamed is repeated after HTTP 408, 409, 429, 5xx, or a lost
                connection. Retry-After is honoured up to two minutes.
            hosted: the service is on the internet: the environment's proxies, redirects and persistent connections are
                used. By default each request gets a new connection, because a server may close a persistent one just
                as the next request is sent.

        Raises:
            InvalidRequest: `base_url` is not an http(s) URL.
        """
        if not is_http_url(base_url):
            raise not_a_url(base_url)
        self.base_url = base_url.rstrip("/")
        # For messages; without a user name or password.
        self.address = str(httpx.URL(self.base_url).copy_with(userinfo=b"")).removesuffix("/v1")
        self._max_retries = max_retries
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"user-agent": USER_AGENT, **bearer(key), **(headers or {})},
            timeout=httpx.Timeout(timeout_s, connect=connect_timeout_s, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None if hosted else 0),
            trust_env=hosted,
            follow_redirects=hosted,
        )

    async def __aenter__(self) -> OpenAIClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, **options: Any) -> dict[str, Any]:
        """Gets `path` and returns the JSON object of the answer; `options` go to httpx. Raises what `post` raises."""
        return self._json(await self._send("GET", path, **options))

    async def post(self, path: str, **options: Any) -> dict[str, Any]:
        """Posts to `path` and returns the JSON object of the answer.

        Args:
            path: below the base URL, such as `/chat/completions`.
            options: httpx's own, such as `json=` or `files=`.

        Raises:
            RemoteError: the service refused; the message, `code`, `param` and `status` are its own.
            WorkerLost: the service cannot be reached or broke off.
            WorkerTimeout: the service did not answer in time.
            ProtocolError: the answer is not a JSON object; a kind of `WorkerLost`.
        """
        return self._json(await self._send("POST", path, **options))

    async def text(self, path: str, **options: Any) -> str:
        """Gets `path`, below the base URL or absolute, and returns the answer's text. Raises what `post` raises."""
        return (await self._send("GET", path, **options)).text

    async def models(self) -> list[str]:
        """Returns the names of the models that are served, sorted.

        Raises:
            RemoteError: the service refused; the message is its own.
            WorkerLost: the service cannot be reached, or the answer is not a list of models (`ProtocolError`).
            WorkerTimeout: the service did not answer in time.
        """
        content = await self.get("/models", timeout=_LIST_TIMEOUT_S)
        entries = content.get("data")
        if not isinstance(entries, list):
            raise ProtocolError(self.address, str(content))
        return sorted({str(entry["id"]) for entry in entries if isinstance(entry, dict) and entry.get("id")})

    async def stream_chat(
        self, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[ChatChunk, None]:
        """Asks for a chat completion and yields its chunks; one of them has the finish reason.

        Closing the generator closes the connection, which ends the work behind it.

        Args:
            body: the request; `stream` and `stream_options` are added here.
            headers: further headers of this request.

        Raises:
            RemoteError: the service refused, or reports an error within the stream; the message is its own.
            WorkerLost: the service cannot be reached, breaks off, or sends something else (`ProtocolError`).
            WorkerTimeout: the service keeps the connection but sent nothing for too long.
        """
        request = {**body, "stream": True, "stream_options": {"include_usage": True}}
        finished = False
        async with aclosing(self._events(request, headers)) as events:
            async for data in events:
                if data == "[DONE]":
                    break
                chunk = self._chunk(data)
                finished = finished or chunk.finish_reason is not None
                yield chunk
        if not finished:
            raise broke_off(self.address)

    async def _events(self, body: Mapping[str, Any], headers: Mapping[str, str] | None) -> AsyncGenerator[str, None]:
        try:
            async with self._http.stream("POST", "/chat/completions", json=body, headers=headers) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _refusal(response)
                async with (
                    aclosing(response.aiter_bytes()) as pieces,  # type: ignore[type-var]
                    aclosing(read_events(pieces)) as events,  # type: ignore[type-var]
                ):
                    async for data in events:
                        yield data
        except httpx.HTTPError as error:
            raise connection_error(self.address, error) from error

    def _chunk(self, data: str) -> ChatChunk:
        content = parsed_json(data)
        if not isinstance(content, dict):
            raise ProtocolError(self.address, data)
        if content.get("error") or content.get("object") == "error":
            raise remote_error(content, _status_in(content))
        text, reason = "", None
        choices = content.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                delta = choice.get("delta")
                piece = delta.get("content") if isinstance(delta, dict) else None
                text += piece if isinstance(piece, str) else ""
                reason = choice.get("finish_reason") or reason
        return ChatChunk(text, None if reason is None else str(reason), TokenUsage.read(content.get("usage")))

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        for attempt in count():
            is_last = attempt >= self._max_retries
            try:
                response = await self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                if is_last:
                    raise connection_error(self.address, error) from error
                delay_s = _backoff_s(attempt)
            else:
                if response.is_success:
                    return response
                if is_last or not _may_retry(response):
                    raise _refusal(response)
                delay_s = _retry_after_s(response.headers) or _backoff_s(attempt)
            await asyncio.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        content = parsed_json(response.content)
        if not isinstance(content, dict):
            raise ProtocolError(self.address, response.text)
        return content


def openai_service(
    base_url: str | None = None, *, timeout_s: float, max_retries: int, missing_key: str
) -> OpenAIClient:
    """A client of OpenAI, or of the hosted service in OPENAI_BASE_URL, with the key in OPENAI_API_KEY.

    Args:
        base_url: takes the place of OPENAI_BASE_URL.
        missing_key: the message if there is neither a key nor another service than OpenAI.

    Raises:
        InvalidRequest: there is no key for OpenAI, or the address is not an http(s) URL.
    """
    base_url = base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or None
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if base_url is None and not key:
        raise InvalidRequest(missing_key)
    names = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
    headers = {header: os.environ[name] for header, name in names.items() if os.environ.get(name)}
    return OpenAIClient(
        base_url or OPENAI_URL,
        key=key,
        headers=headers,
        timeout_s=timeout_s,
        connect_timeout_s=timeout_s,
        max_retries=max_retries,
        hosted=True,
    )


def _refusal(response: httpx.Response) -> Exception:
    return remote_error(
        parsed_json(response.content), response.status_code, retry_after_s=_retry_after_s(response.headers)
    )


def _status_in(content: dict[str, Any]) -> int:
    """The HTTP status that an error event names as its code; 500 if it names none."""
    error = content.get("error", content)
    numbers = [error.get(name) for name in ("code", "status")] if isinstance(error, dict) else []
    return next((number for number in numbers if isinstance(number, int) and 400 <= number < 600), 500)


def _may_retry(response: httpx.Response) -> bool:
    if (_retry_after_s(response.headers) or 0) > _LONGEST_RETRY_AFTER_S:
        return False
    wish = response.headers.get("x-should-retry")
    if wish in ("true", "false"):
        return bool(wish == "true")
    return response.status_code in _RETRIED_STATUSES or response.status_code >= 500


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """The wait that a service asks for, in seconds; None if it asks for none."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            wait_s = float(value) / scale
        except ValueError:
            date = email.utils.parsedate_tz(value)
            wait_s = email.utils.mktime_tz(date) - time.time() if date else 0.0
        if math.isfinite(wait_s) and wait_s > 0:
            return wait_s
    return None


def _backoff_s(attempt: int) -> float:
    delay_s = min(_FIRST_DELAY_S * 2.0 ** min(attempt, 16), _LONGEST_DELAY_S)
    return delay_s * (1 - 0.25 * random.random())  # parallel calls must not retry all at once
