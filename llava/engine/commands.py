"""Defines the commands that other threads send to the engine's own thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava.engine.batcher import Batcher, Progress
    from llava.engine.request_state import RequestState
    from llava.errors import LlavaError
    from llava.text_generation.answer_events import Answer


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A new request."""

    state: RequestState


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """Nobody waits for the answer to a request any more."""

    state: RequestState


@dataclass(frozen=True, slots=True)
class RequestPrepared:
    """The token ids of a request are ready, or could not be made."""

    state: RequestState
    error: LlavaError | None


@dataclass(frozen=True, slots=True)
class StepReported:
    """The batching manager has finished a step."""

    batcher: Batcher
    """The manager that reports; reports of one that was replaced since are ignored."""
    progress: Sequence[Progress]


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """The sequential runner has finished a request."""

    state: RequestState
    result: Answer | LlavaError


@dataclass(frozen=True, slots=True)
class SelfChecked:
    """The check at the start has ended."""

    difference: str | None
    """What is wrong with batched answers, or None."""
    handled: threading.Event = field(default_factory=threading.Event)
    """Set by the engine's thread once it has acted on the result."""


EngineCommand = RequestArrived | RequestCancelled | RequestPrepared | StepReported | RequestFinished | SelfChecked
