"""A conversation as our front ends hold it, and the request for its next answer.

The web page and the terminal chat share it. A conversation is immutable: every change gives a new one.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

from llava.errors import InvalidRequest
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.images import ChatImage, ImageShape, shaped
from llava.serve.protocol.constants import MAX_IMAGES
from llava.text_generation.answer_events import Answer, AnswerEvent, AnswerEvents

Role = Literal["user", "assistant"]

_PLAIN_WORD: Final = re.compile(r"[a-z]+(?=[ ,])")


@dataclass(frozen=True, slots=True)
class AnswerStatistics:
    """Token counts and times of an answer; None for what is not known."""

    finish_reason: Literal["stop", "length"] | None = None
    """None if the answer was stopped or failed."""
    prompt_tokens: int | None = None
    """Tokens of the prompt; an image counts as many as it has features."""
    new_tokens: int | None = None
    """Tokens of the answer."""
    first_s: float | None = None
    """Seconds from the question to the first piece of the answer."""
    total_s: float | None = None
    """Seconds from the question to the end of the answer."""

    def __str__(self) -> str:
        """One short line, such as `57 + 12 tokens · 8.1 tokens/s · first after 0.4 s`."""
        parts = []
        if self.prompt_tokens is not None and self.new_tokens is not None:
            parts.append(f"{self.prompt_tokens} + {self.new_tokens} tokens")
        writing_s = (self.total_s or 0) - (self.first_s or 0)
        if self.new_tokens and self.new_tokens > 1 and writing_s > 0:
            parts.append(f"{(self.new_tokens - 1) / writing_s:.1f} tokens/s")
        if self.first_s is not None:
            parts.append(f"first after {self.first_s:.1f} s")
        if self.finish_reason == "length":
            parts.append("cut at the token limit")
        return " · ".join(parts)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    text: str
    images: tuple[ChatImage, ...] = ()
    """Images of a question; an answer has none."""
    model: str = ""
    """Name of the model that answered."""
    statistics: AnswerStatistics = AnswerStatistics()
    error: str = ""
    """Why the answer is missing or incomplete, as the user is told."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A whole conversation. Turns alternate and begin with the user's."""

    turns: tuple[Turn, ...] = ()
    system: str = ""
    """The system prompt; empty for the model's own."""

    def ask(self, text: str, images: tuple[ChatImage, ...] = ()) -> Chat:
        """Returns the conversation with one more question.

        Raises:
            InvalidRequest: the question is empty, or there would be too many images.
        """
        text = text.strip()
        if not text and not images:
            raise InvalidRequest("the message is empty. Write a question, or add an image.")
        count = len(self.images) + len(images)
        if count > MAX_IMAGES:
            raise InvalidRequest(
                f"this conversation would have {count} images; the limit is {MAX_IMAGES}. "
                "Send fewer images, or start a new conversation."
            )
        return replace(self, turns=(*self.turns, Turn("user", text, images)))

    def answered(self, turn: Turn) -> Chat:
        """Returns the conversation with an answer to its last question."""
        return replace(self, turns=(*self.turns, turn))

    def upto(self, index: int) -> Chat:
        """Returns the conversation before turn `index`."""
        return replace(self, turns=self.turns[:index])

    def unanswered(self) -> Chat:
        """Returns the conversation without the answer at its end, if there is one."""
        has_answer = bool(self.turns) and self.turns[-1].role == "assistant"
        return self.upto(len(self.turns) - 1) if has_answer else self

    def edited(self, index: int, text: str) -> Chat:
        """Returns the conversation up to the question at `index`, with another text for it; its images stay.

        Raises:
            InvalidRequest: nothing is left of the question.
        """
        return self.upto(index).ask(text, self.turns[index].images)

    @property
    def images(self) -> tuple[ChatImage, ...]:
        """All images, in the order in which they were sent."""
        return tuple(image for turn in self.turns for image in turn.images)

    def messages(self, shape: ImageShape = "Crop") -> list[dict[str, Any]]:
        """Returns the conversation as the `messages` of a chat completion.

        A question that got no answer is sent together with the next one, because roles have to alternate.
        """
        messages: list[dict[str, Any]] = []
        if self.system.strip():
            messages.append({"role": "system", "content": self.system})
        parts: list[dict[str, Any]] = []
        for turn in self.turns:
            if turn.role == "user":
                parts += [_image_part(shaped(image, shape)) for image in turn.images]
                if turn.text:
                    parts.append({"type": "text", "text": turn.text})
            elif turn.text.strip():
                messages.append({"role": "user", "content": parts})
                messages.append({"role": "assistant", "content": turn.text})
                parts = []
        return [*messages, {"role": "user", "content": parts}] if parts else messages

    def request(self, model: str, settings: AnswerSettings) -> dict[str, Any]:
        """Returns the body of the `POST /v1/chat/completions` that asks for the next answer."""
        return {"model": model, "messages": self.messages(settings.shape), **settings.request_fields()}


class Draft:
    """An answer while it is being written."""

    def __init__(self, model: str):
        self.text = ""
        self._model = model
        self._start_s = time.monotonic()
        self._first_s: float | None = None
        self._end: Answer | None = None

    def add(self, event: AnswerEvent) -> None:
        """Adds the next event of the answer."""
        if isinstance(event, Answer):
            self._end = event
            return
        if self._first_s is None:
            self._first_s = time.monotonic() - self._start_s
        self.text += event.text

    def turn(self, error: str = "") -> Turn:
        """Returns the answer as far as it is written; an error does not discard its text."""
        end, total_s = self._end, time.monotonic() - self._start_s
        if end is None:
            statistics = AnswerStatistics(first_s=self._first_s, total_s=total_s)
        else:
            # A server that reports no counts gives zeros.
            prompt_tokens, new_tokens = end.num_prompt_tokens or None, end.num_new_tokens or None
            statistics = AnswerStatistics(end.finish_reason, prompt_tokens, new_tokens, self._first_s, total_s)
        return Turn("assistant", self.text, model=self._model, statistics=statistics, error=error)


class ChatSource(Protocol):
    """What answers a chat: a server, or an engine in this process."""

    async def models(self) -> list[str]:
        """Returns the names of the models that `answer` can be asked for, sorted.

        Raises:
            LlavaError: the names are not available.
        """

    def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> AnswerEvents:
        """Starts an answer; closing the generator ends the work behind it.

        Raises:
            LlavaError: the answer fails; raised while it is read.
        """


def as_sentence(message: str) -> str:
    """Returns an error message with a capital letter, unless it starts with a file, an address or a name."""
    return message[:1].upper() + message[1:] if _PLAIN_WORD.match(message) else message


def _image_part(image: ChatImage) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image.as_data_uri()}}
