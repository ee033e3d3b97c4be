"""A conversation as our front ends hold it, and the request that asks for its next answer.

The web page and the terminal chat share it. A conversation never changes: what a user does to it gives a new one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from llava.errors import InvalidRequest
from llava.serve.client.images import ChatImage, ImageShape, shaped
from llava.serve.protocol.limits import MAX_IMAGES
from llava.text_generation.answer_events import Answer, AnswerEvent, AnswerEvents

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What an answer cost; None where it is not known."""

    finish_reason: Literal["stop", "length"] | None = None
    """None where the answer was stopped or failed."""
    prompt_tokens: int | None = None
    """Images counted by their features."""
    new_tokens: int | None = None
    first_s: float | None = None
    """Seconds from the question to the first piece."""
    total_s: float | None = None

    def __str__(self) -> str:
        """One small line, such as `57 + 12 tokens · 8.1 tokens/s · first after 0.4 s`."""
        parts = []
        if self.prompt_tokens is not None and self.new_tokens is not None:
            parts.append(f"{self.prompt_tokens} + {self.new_tokens} tokens")
        writing_s = (self.total_s or 0) - (self.first_s or 0)
        if self.new_tokens and self.new_tokens > 1 and writing_s > 0:
            parts.append(f"{(self.new_tokens - 1) / writing_s:.1f} tokens/s")
        if self.first_s is not None:
            parts.append(f"first after {self.first_s:.1f} s")
        if self.finish_reason == "length":
            parts.append("cut at the limit of tokens")
        return " · ".join(parts)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message."""

    role: Role
    text: str
    images: tuple[ChatImage, ...] = ()
    """The user's only."""
    model: str = ""
    """Who answered."""
    figures: Figures = Figures()
    error: str = ""
    """Why the answer is missing or ends early; the sentence that the user is shown."""


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How an answer is made."""

    temperature: float = 0.2
    """0 is greedy; at most 2."""
    top_p: float = 1.0
    """Above 0; 1 is off."""
    max_tokens: int = 512
    """To write at most."""
    seed: int | None = None
    shape: ImageShape = "Crop"


@dataclass(frozen=True, slots=True)
class Chat:
    """A whole conversation. Turns alternate, beginning with the user's."""

    turns: tuple[Turn, ...] = ()
    system: str = ""
    """Empty: the model's own."""

    def ask(self, text: str, images: tuple[ChatImage, ...] = ()) -> Chat:
        """The conversation with one question more.

        Raises:
            InvalidRequest: nothing was asked, or the images are too many.
        """
        text = text.strip()
        if not text and not images:
            raise InvalidRequest("the message is empty. Write a question, or add an image.")
        count = len(self.images) + len(images)
        if count > MAX_IMAGES:
            raise InvalidRequest(
                f"this conversation would have {count} images, the limit is {MAX_IMAGES}. "
                "Send fewer, or begin a new conversation."
            )
        return replace(self, turns=(*self.turns, Turn("user", text, images)))

    def answered(self, turn: Turn) -> Chat:
        """The conversation with an answer to its last question."""
        return replace(self, turns=(*self.turns, turn))

    def upto(self, index: int) -> Chat:
        """The conversation before turn `index`."""
        return replace(self, turns=self.turns[:index])

    def edited(self, index: int, text: str) -> Chat:
        """Asked again from the user's turn `index` on with another text; its images stay.

        Raises:
            InvalidRequest: nothing is left of the message.
        """
        return self.upto(index).ask(text, self.turns[index].images)

    @property
    def images(self) -> tuple[ChatImage, ...]:
        """All of them, in the order in which they were sent."""
        return tuple(image for turn in self.turns for image in turn.images)

    def messages(self, shape: ImageShape = "Crop") -> list[dict[str, Any]]:
        """The conversation as the `messages` of a chat completion.

        A question whose answer never came is asked together with the next one, because roles have to alternate.
        """
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system.strip() else []
        parts: list[dict[str, Any]] = []
        for turn in self.turns:
            if turn.role == "user":
                parts += [_image_part(shaped(image, shape)) for image in turn.images]
                parts += [{"type": "text", "text": turn.text}] * bool(turn.text)
            elif turn.text.strip():
                messages.append({"role": "user", "content": parts})
                messages.append({"role": "assistant", "content": turn.text})
                parts = []
        return [*messages, {"role": "user", "content": parts}] if parts else messages

    def request(self, model: str, settings: AnswerSettings) -> dict[str, Any]:
        """The body of `POST /v1/chat/completions` that asks for the next answer."""
        body: dict[str, Any] = {
            "model": model,
            "messages": self.messages(settings.shape),
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
        }
        return body if settings.seed is None else {**body, "seed": settings.seed}


class Draft:
    """An answer that is being written."""

    def __init__(self, model: str):
        self.text = ""
        self._model = model
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        self._end: Answer | None = None

    def saw(self, event: AnswerEvent) -> None:
        if isinstance(event, Answer):
            self._end = event
            return
        if self._first_s is None:
            self._first_s = time.monotonic() - self._began_s
        self.text += event.text

    def turn(self, error: str = "") -> Turn:
        """The answer as far as it is written; what was is kept whatever ended it."""
        end, total_s = self._end, time.monotonic() - self._began_s
        if end is None:
            figures = Figures(first_s=self._first_s, total_s=total_s)
        else:
            # A server that tells no counts tells zeros.
            prompt_tokens, new_tokens = end.num_prompt_tokens or None, end.num_new_tokens or None
            figures = Figures(end.finish_reason, prompt_tokens, new_tokens, self._first_s, total_s)
        return Turn("assistant", self.text, model=self._model, figures=figures, error=error)


class ChatSource(Protocol):
    """Who answers: a server, or an engine in this process."""

    async def models(self) -> list[str]:
        """What `answer` may be asked for, sorted.

        Raises:
            LlavaError: nobody is there to say.
        """

    def answer(self, chat: Chat, model: str, settings: AnswerSettings) -> AnswerEvents:
        """Begins an answer; closing what it returns ends the work behind it.

        Raises:
            LlavaError: while it is read, instead of the end.
        """


def _image_part(image: ChatImage) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image.as_data_uri()}}
