"""Defines the settings and the counters of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class BatchSettings:
    """Limits of one batch. None derives the value from the device's free memory."""

    max_running: int = 32
    """Largest number of requests in one step."""
    cache_tokens: int | None = None
    """Size of the key-value cache in tokens, for prompts, images and answers of all running requests together."""
    step_tokens: int | None = None
    """Largest number of tokens in one step. Longer prompts are spread over several steps, so that running answers
    continue meanwhile."""
    page_tokens: int | None = None
    """Tokens per page of the cache. Prefixes are shared in whole pages. Flash attention needs 256."""


@dataclass(frozen=True)
class EngineSettings:
    """Settings of an engine."""

    batch: BatchSettings = field(default_factory=BatchSettings)
    """Limits of one batch."""
    max_waiting: int = 256
    """Number of requests that may wait beside the running ones; further ones are refused."""
    image_rows: int | None = None
    """Number of image features kept for later questions; None keeps those of 32 images, or of one full context."""
    one_by_one: bool = False
    """Answers one request after the other instead of batching."""
    self_check: bool = True
    """Compares a batched answer with the model's own at the start, and answers one by one if they differ."""


@dataclass
class EngineStats:
    """Counts since the engine was created."""

    answered: int = 0
    """Requests answered."""
    failed: int = 0
    """Requests that ended with an error."""
    cancelled: int = 0
    """Requests cancelled by their clients."""
    deaths: int = 0
    """Batching managers that ended with an exception and were replaced."""
    images_encoded: int = 0
    """Images encoded by the vision tower."""
    images_found: int = 0
    """Images whose features were still known from an earlier request."""
    prompt_tokens: int = 0
    """Tokens of all prompts, images included."""
    image_tokens: int = 0
    """Tokens of all prompts that were image features."""
    new_tokens: int = 0
    """Tokens generated."""
    steps_after_cancel: int = 0
    """Steps spent on cancelled requests, counting the step in progress when they were cancelled."""
    most_steps_after_cancel: int = 0
    """The largest number of such steps for a single request; at most 2."""
