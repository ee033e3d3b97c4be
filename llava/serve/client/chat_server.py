"""Asks a controller, one of our workers, or any OpenAI-compatible server for the answers of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import Chat
from llava.serve.client.http_errors import environment_key, is_http_url, not_a_url
from llava.serve.client.openai_client import OpenAIClient, TokenUsage
from llava.text_generation.answer_events import AnswerEvents, FinishReason, ServerAnswer

SILENCE_TIMEOUT_S: Final = 330.0
"""Longest wait for the next byte. A controller waits less and then ends a silent answer with an error of its own."""


class ChatServer:
    """A server, as a `ChatSource`. Sends the API key in LLAVA_API_KEY unless it is given another one."""

    def __init__(self, address: str, *, key: str = "", headers: Mapping[str, str] | None = None):
        """
        Args:
            address: such as http://localhost:10000, with or without `/v1` at its end.
            key: the API key; empty reads LLAVA_API_KEY.
            headers: sent with each request.

        Raises:
            InvalidRequest: `address` is not an http(s) URL.
        """
        self.address = address.rstrip("/").removesuffix("/v1")
        if not is_http_url(self.address):
            raise not_a_url(address)
        self._client = OpenAIClient(
            f"{self.address}/v1", key=key or environment_key(), headers=headers, timeout_s=SILENCE_TIMEOUT_S
        )

    async def models(self) -> list[str]:
        """Returns the names of the models that are served, sorted. Raises what `OpenAIClient.models` raises."""
        return await self._client.models()

    async def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> AnswerEvents:
        """Streams an answer; closing the generator ends the work behind it. Raises what `stream_chat` raises."""
        answer = ServerAnswer()
        reason: str | None = None
        usage = TokenUsage()
        async with aclosing(self._client.stream_chat(chat.request(model, settings))) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield answer.piece(chunk.text)
                reason = chunk.finish_reason or reason
                usage = chunk.usage or usage
        finish_reason: FinishReason = "length" if reason == "length" else "stop"
        for event in answer.end(finish_reason, usage.prompt_tokens, usage.completion_tokens):
            yield event

    async def close(self) -> None:
        await self._client.close()
