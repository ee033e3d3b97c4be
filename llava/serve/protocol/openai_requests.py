"""Reads requests to `/v1/chat/completions`, and refuses fields that cannot be honoured.

Unknown fields are ignored, as other servers do. Known fields that would change the answer, but that no model here can
honour, are refused by name: an answer that silently ignored them would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from llava.errors import UnsupportedParameter
from llava.serve.protocol.constants import MAX_CHOICES, MAX_MESSAGES, MAX_STOPS, MAX_TEXT_CHARACTERS
from llava.serve.protocol.original import Name

StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS)]


class TextPart(BaseModel):
    """A part of a message that is text."""

    type: Literal["text"]
    text: Text


class ImageUrl(BaseModel):
    """Where an image is."""

    url: str
    """A data URI, or the address of an image on a host that the operator allows."""
    detail: str | None = None
    """Accepted but unused: a checkpoint has only one resolution."""


class ImagePart(BaseModel):
    """A part of a message that is an image."""

    type: Literal["image_url"]
    image_url: ImageUrl

    @field_validator("image_url", mode="before")
    @classmethod
    def _bare_address(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


class RefusalPart(BaseModel):
    """A part of an assistant's message that declines to answer."""

    type: Literal["refusal"]
    refusal: Text


Part = Annotated[TextPart | ImagePart | RefusalPart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part] | None = None

    @property
    def parts(self) -> Sequence[TextPart | ImagePart | RefusalPart]:
        """The content as a list of parts."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)] if self.content else []
        return self.content or []


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: Name
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    temperature: float | None = Field(None, ge=0, le=2)
    """Randomness of the answer; 0 is greedy, None means 1."""
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    """Number of most likely tokens to sample from; 0 and -1 mean all. Not one of OpenAI's fields."""
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
        """Number of answers to write."""
        return self.n or 1

    @property
    def limit(self) -> int | None:
        """Longest answer, in tokens; None leaves it to the server."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
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
"""Fields that would change the answer, each with a test for the values that do not."""

_PARTS: Final = ("text", "image_url", "refusal")


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Checks a request as it arrived, before its types are checked.

    Raises:
        UnsupportedParameter: names a field, role or part that no model here can honour.
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
            f"{where}: the role {message['role']!r} is not supported; the models here do not call tools.",
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
                f"{where}.content[{index}]: parts of type {_printable(kind)} are not supported. "
                "Send text and image_url.",
                param=f"{where}.content[{index}]",
            )


def _printable(text: str) -> str:
    return repr(re.sub(r"[^\x20-\x7e]", "?", text[:40]))
