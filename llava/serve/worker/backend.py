"""What a worker needs of whatever generates behind it: an engine in this process, or another server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from llava.serve.protocol.openai_requests import ChatRequest
    from llava.serve.protocol.original import GenerateRequest
    from llava.serve.service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of an answer."""

    text: str
    num_new_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer; always the last event."""

    finish_reason: Literal["stop", "length"]
    """Whether the model ended by itself or at a stop text, or ran into the limit of tokens."""
    num_prompt_tokens: int
    """Images counted by their features."""
    num_new_tokens: int
    num_image_tokens: int = 0


ChatEvent = TextDelta | Finished
ChatEvents = AsyncGenerator[ChatEvent, None]
"""Any number of `TextDelta`, then one `Finished`; raises a `LlavaError` instead of the end. Closing it cancels."""


class Ask(Protocol):
    """One prepared request, to be asked once for each choice."""

    def __call__(self, index: int) -> ChatEvents:
        """Starts choice `index`; nothing is computed before the first event is asked for."""


class Backend(Protocol):
    """What generates. Its methods are called on the event loop and never block it."""

    @property
    def names(self) -> list[str]:
        """The names that requests may give as `model`."""

    @property
    def limit(self) -> int:
        """How many answers it can be busy with at once; more than these wait in the worker."""

    @property
    def healthy(self) -> bool:
        """False once it can never answer again without a restart."""

    @property
    def ready(self) -> bool:
        """Whether a request sent now has a good chance."""

    def queue_length(self) -> int:
        """Requests that wait inside of it, beyond those that this worker knows of."""

    def observe(self, metrics: Metrics) -> None:
        """Where it may keep figures of its own."""

    async def start(self) -> None:
        """Loads what is to be loaded and answers one warm-up question."""

    async def close(self) -> None:
        """Frees everything; running answers end with an error."""

    async def legacy(self, request: GenerateRequest) -> Ask:
        """Checks and prepares a request of the original's protocol; the prompt is no part of the answer.

        The prompt has one `<image>` an image, and a token at least is wanted.

        Raises:
            LlavaError: the request cannot be answered.
        """

    async def chat(self, request: ChatRequest) -> Ask:
        """Checks and prepares a request of the OpenAI protocol.

        Raises:
            LlavaError: the request cannot be answered.
        """
