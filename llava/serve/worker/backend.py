"""Defines what a worker requires of a backend: an engine in this process, or another server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llava.serve.protocol.openai_requests import ChatRequest
    from llava.serve.protocol.original import GenerateRequest
    from llava.serve.service.metrics import Metrics
    from llava.text_generation.answer_events import Answer, AnswerEvents


class StartChoice(Protocol):
    """A prepared request; called once for each choice."""

    async def __call__(self, choice: int) -> AnswerEvents:
        """Returns the events of a choice. The model starts when the first event is requested.

        Raises:
            LlavaError: the choice cannot be answered.
        """


class Backend(Protocol):
    """Generates answers. Its methods are called on the event loop and never block it."""

    @property
    def names(self) -> list[str]:
        """The names that requests may give as `model`."""

    @property
    def limit(self) -> int:
        """Largest number of choices that it writes at once; further ones wait in the worker."""

    @property
    def healthy(self) -> bool:
        """False once it cannot answer without a restart of the process."""

    @property
    def ready(self) -> bool:
        """Whether a request is likely to be answered now."""

    def queue_length(self) -> int:
        """Returns the number of requests waiting inside the backend, other than those of this worker."""

    def observe(self, metrics: Metrics) -> None:
        """Gives the backend a place for its own figures."""

    def ended(self, result: Answer | Exception) -> None:
        """Tells the backend how a choice ended, so that it can keep its figures."""

    async def start(self) -> None:
        """Loads the model and answers one warm-up question."""

    async def close(self) -> None:
        """Frees everything. Running answers end with an error."""

    async def legacy(self, request: GenerateRequest) -> StartChoice:
        """Checks and prepares a request of the original's protocol. The answer does not include the prompt.

        The prompt must have one `<image>` marker per image, and at least one token must be requested.

        Raises:
            LlavaError: the request cannot be answered.
        """

    async def chat(self, request: ChatRequest) -> StartChoice:
        """Checks and prepares a request of the OpenAI protocol.

        Raises:
            LlavaError: the request cannot be answered.
        """
