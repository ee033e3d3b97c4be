"""Builds the replies of `/v1/chat/completions` and `/v1/models`: whole, or as the events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel

from llava.text_generation.answer_events import Answer, FinishReason

DONE: Final = b"data: [DONE]\n\n"
"""The last event of a stream."""
KEEP_ALIVE_COMMENT: Final = b": keep-alive\n\n"
"""A comment that readers skip. It keeps proxies from closing a stream during a long prefill."""


class Usage(BaseModel):
    """Token counts of a request."""

    prompt_tokens: int
    """Tokens of the prompt, counting each image feature as one."""
    completion_tokens: int
    """Tokens of all choices together."""
    total_tokens: int


class ReplyMessage(BaseModel):
    """The message of the assistant."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One of the answers to a request."""

    index: int
    message: ReplyMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """The reply to a request without `stream`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Unix time in seconds."""
    model: str
    choices: list[Choice]
    usage: Usage


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix time in seconds."""
    owned_by: str = "llava"


class ModelCardList(BaseModel):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def usage_of(answers: Sequence[Answer]) -> Usage:
    """Returns the token counts of a request. Its choices share one prompt, which is counted once."""
    prompt = max((answer.num_prompt_tokens for answer in answers), default=0)
    written = sum(answer.num_new_tokens for answer in answers)
    return Usage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)


def sse_event(body: Mapping[str, Any]) -> bytes:
    """Returns one server-sent event in plain ASCII, because some readers end a line at U+2028."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True)
class ReplyEncoder:
    """Encodes one reply, whole or as a stream, under one id."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time in seconds."""

    def whole(self, answers: Sequence[Answer]) -> ChatCompletion:
        """Returns the reply to a request without `stream`."""
        choices = [
            Choice(index=index, message=ReplyMessage(content=answer.text), finish_reason=answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return ChatCompletion(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage_of(answers)
        )

    def first(self, choice: int) -> bytes:
        """Returns the event that opens a choice."""
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def text(self, choice: int, text: str) -> bytes:
        """Returns the event that carries a piece of text."""
        return self._chunk(choice, {"content": text})

    def last(self, choice: int, reason: FinishReason) -> bytes:
        """Returns the event that ends a choice."""
        return self._chunk(choice, {}, reason)

    def usage(self, answers: Sequence[Answer]) -> bytes:
        """Returns the event that carries the token counts."""
        return sse_event(self._head() | {"choices": [], "usage": usage_of(answers).model_dump()})

    def _chunk(self, choice: int, delta: dict[str, str], reason: FinishReason | None = None) -> bytes:
        content = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}
        return sse_event(self._head() | {"choices": [content]})

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
