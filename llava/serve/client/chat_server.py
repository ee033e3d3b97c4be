"""Asks a controller, one of our workers, or any OpenAI-compatible server for the answers of a chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import httpx

from llava.errors import WorkerLost, WorkerTimeout
from llava.serve.client.conversation import AnswerSettings, Chat
from llava.serve.client.http_client import client_options, lost, refusal, remote_error
from llava.serve.protocol.original import CHAT_PATH
from llava.serve.protocol.sse import json_or_none, read_events
from llava.text_generation.answer_events import AnswerEvents, ServerAnswer

SILENCE_TIMEOUT_S: Final = 330.0
"""Longest wait for the next byte; longer than a controller's own, which ends a silent answer with a sentence."""
_LIST_TIMEOUT_S: Final = 10.0


class ChatServer:
    """One server. Shows the API key of the environment's LLAVA_API_KEY, if there is one; a `ChatSource`."""

    def __init__(self, address: str, *, headers: Mapping[str, str] | None = None):
        """
        Args:
            address: such as http://localhost:10000, with or without the `/v1` that other clients want.
            headers: sent with each request.

        Raises:
            InvalidRequest: it is no http(s) address.
        """
        self.address = address.rstrip("/").removesuffix("/v1")
        # A connection a request: one kept alive may be closed by the server in the moment of the next request.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(**client_options(self.address, headers, SILENCE_TIMEOUT_S), limits=limits)

    async def models(self) -> list[str]:
        """What is served, sorted.

        Raises:
            RemoteError: the server refuses to tell; its own words.
            WorkerLost: it cannot be reached, or what answers is no such server.
        """
        try:
            response = await self._http.get("/v1/models", timeout=_LIST_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise lost(self.address, error) from error
        if response.status_code != 200:
            raise refusal(response)
        content = json_or_none(response.content)
        entries = content.get("data") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise WorkerLost(
                f"{self.address}/v1/models: this is no list of models. Is that an OpenAI-compatible server?"
            )
        return sorted({str(entry["id"]) for entry in entries if isinstance(entry, dict) and entry.get("id")})

    async def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> AnswerEvents:
        """Streams an answer; closing the generator closes the connection, which ends the work behind it.

        Raises:
            RemoteError: the server refused, or could not go on; its own words.
            WorkerLost: it cannot be reached, breaks off, or sends something else.
            WorkerTimeout: it keeps the connection and sends nothing.
        """
        body = {**chat.request(model, settings), "stream": True, "stream_options": {"include_usage": True}}
        written = ServerAnswer()
        reason: str | None = None
        prompt_tokens = new_tokens = 0
        async with aclosing(self._chunks(body)) as chunks:
            async for chunk in chunks:
                for choice in _objects(chunk.get("choices")):
                    delta = choice.get("delta")
                    text = delta.get("content") if isinstance(delta, dict) else None
                    if isinstance(text, str) and text:
                        yield written.piece(text)
                    reason = choice.get("finish_reason") or reason
                if isinstance(chunk.get("usage"), dict):
                    prompt_tokens = _count(chunk["usage"].get("prompt_tokens"))
                    new_tokens = _count(chunk["usage"].get("completion_tokens"))
        if reason is None:
            raise lost(self.address, EOFError())
        for event in written.end("length" if reason == "length" else "stop", prompt_tokens, new_tokens):
            yield event

    async def close(self) -> None:
        await self._http.aclose()

    async def _chunks(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        try:
            async with self._http.stream("POST", CHAT_PATH, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise refusal(response)
                async with (
                    aclosing(response.aiter_bytes()) as pieces,  # type: ignore[type-var]
                    aclosing(read_events(pieces)) as events,  # type: ignore[type-var]
                ):
                    async for data in events:
                        if data == "[DONE]":
                            return
                        yield self._chunk(data)
        except httpx.ReadTimeout as error:
            raise WorkerTimeout(f"{self.address} has sent nothing for {SILENCE_TIMEOUT_S:.0f} s.") from error
        except httpx.HTTPError as error:
            raise lost(self.address, error) from error
        # The end of the bytes without [DONE]: `answer` sees whether the answer had ended.

    def _chunk(self, data: str) -> dict[str, Any]:
        content = json_or_none(data)
        if not isinstance(content, dict):
            raise WorkerLost(f"{self.address} sends something that is no chat completion.")
        if content.get("error"):
            raise remote_error(content, 500)
        return content


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
