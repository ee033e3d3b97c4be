"""The types of `/v1/chat/completions` and `/v1/models`: what is taken, what is refused by name, what is answered.

Fields that nobody here knows are ignored, as other servers do; those that would change the answer and that no model of
ours can honour are refused, because an answer that silently ignores them is wrong.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from llava.errors import UnsupportedParameter
from llava.serve.protocol.original import MAX_STOPS, Name
from llava.serve.worker.backend import Finished

MAX_CHOICES: Final = 8
MAX_MESSAGES: Final = 1024
MAX_TEXT_CHARACTERS: Final = 1_000_000
"""Of one message or part; far beyond any context, so that the tokenizer never meets a book."""

# Requests

StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS)]


class TextPart(BaseModel):
    type: Literal["text"]
    text: Text


class ImageUrl(BaseModel):
    url: str
    """A data URI, or an address where the operator allows its host."""
    detail: str | None = None
    """Accepted and unused: a checkpoint has one resolution."""


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl

    @field_validator("image_url", mode="before")
    @classmethod
    def _bare_address(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


class RefusalPart(BaseModel):
    type: Literal["refusal"]
    refusal: Text


Part = Annotated[TextPart | ImagePart | RefusalPart, Field(discriminator="type")]


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part] | None = None

    @property
    def parts(self) -> Sequence[TextPart | ImagePart | RefusalPart]:
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)] if self.content else []
        return self.content or []


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: Name
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    temperature: float | None = Field(None, ge=0, le=2)
    """0 is greedy; 1 where absent."""
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    """Not OpenAI's; 0 and -1 are off."""
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    """The older name of max_completion_tokens."""
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_supported(cls, body: Any) -> Any:
        if isinstance(body, dict):
            refuse_unsupported(body)
        return body

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def limit(self) -> int | None:
        """Tokens to write at most; None leaves it to the server."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


# Refusals


def _is_empty(value: Any) -> bool:
    return value in (None, False, [], {})


def _is_zero(value: Any) -> bool:
    return not isinstance(value, bool) and value in (None, 0)


_HARMLESS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "tools": _is_empty,
    "tool_choice": lambda value: value in (None, "none", "auto"),
    "functions": _is_empty,
    "function_call": lambda value: value in (None, "none", "auto"),
    "audio": _is_empty,
    "modalities": lambda value: _is_empty(value) or value == ["text"],
    "prediction": _is_empty,
    "logprobs": lambda value: value in (None, False),
    "top_logprobs": _is_zero,
    "logit_bias": _is_empty,
    "response_format": lambda value: value in (None, {"type": "text"}),
    "frequency_penalty": _is_zero,
    "presence_penalty": _is_zero,
    "repetition_penalty": lambda value: not isinstance(value, bool) and value in (None, 1),
    "min_p": _is_zero,
    "web_search_options": lambda value: value is None,
    "image_aspect_ratio": lambda value: value is None,
}
"""Fields that would change the answer, and which of their values do not."""

_PARTS: Final = ("text", "image_url", "refusal")


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Looks through a request as it came, before its types are checked.

    Raises:
        UnsupportedParameter: a field, role or part that no model here can honour; names it.
    """
    for name, is_harmless in _HARMLESS.items():
        if name in body and not is_harmless(body[name]):
            raise UnsupportedParameter(f"{name} is not supported here. Leave it out.", param=name)
    messages = body.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, Mapping):
            _refuse_unsupported_message(f"messages[{index}]", message)


def _refuse_unsupported_message(where: str, message: Mapping[str, Any]) -> None:
    if message.get("role") in ("tool", "function"):
        raise UnsupportedParameter(
            f"{where}: the role {message['role']!r} is not supported; the models here call no tools.",
            param=f"{where}.role",
        )
    for name in ("tool_calls", "function_call", "audio"):
        if not _is_empty(message.get(name)):
            raise UnsupportedParameter(f"{where}.{name} is not supported here. Leave it out.", param=f"{where}.{name}")
    content = message.get("content")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind not in _PARTS:
            raise UnsupportedParameter(
                f"{where}.content[{index}]: parts of type {_shown(kind)} are not supported. Send text and image_url.",
                param=f"{where}.content[{index}]",
            )


def _shown(text: str) -> str:
    return repr(re.sub(r"[^\x20-\x7e]", "?", text[:40]))


# Replies


class Usage(BaseModel):
    prompt_tokens: int
    """Images counted by their features."""
    completion_tokens: int
    total_tokens: int


class ReplyMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: ReplyMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The answer to a request without `stream`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "llava"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


def usage_of(finished: Sequence[Finished]) -> Usage:
    """Token counts of a whole request: its choices share one prompt, which is counted once."""
    prompt = max((end.num_prompt_tokens for end in finished), default=0)
    written = sum(end.num_new_tokens for end in finished)
    return Usage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)


DONE: Final = b"data: [DONE]\n\n"
COMMENT: Final = b": keep-alive\n\n"
"""What an SSE reader skips; keeps proxies from cutting a long prefill."""


def event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event, in plain ASCII: there are readers for which U+2028 ends a line."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True)
class Reply:
    """One answer's identity, and the objects that carry it."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, texts: Sequence[str], finished: Sequence[Finished]) -> ChatCompletion:
        choices = [
            Choice(index=index, message=ReplyMessage(content=text), finish_reason=end.finish_reason)
            for index, (text, end) in enumerate(zip(texts, finished, strict=True))
        ]
        return ChatCompletion(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage_of(finished)
        )

    def first(self, index: int) -> bytes:
        """The chunk that opens a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def text(self, index: int, text: str) -> bytes:
        return self._chunk(index, {"content": text})

    def last(self, index: int, reason: str) -> bytes:
        """The chunk that ends a choice."""
        return self._chunk(index, {}, reason)

    def usage(self, finished: Sequence[Finished]) -> bytes:
        return event(self._head() | {"choices": [], "usage": usage_of(finished).model_dump()})

    def _chunk(self, index: int, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event(self._head() | {"choices": [choice]})

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
