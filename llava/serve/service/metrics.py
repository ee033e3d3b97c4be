"""Defines the Prometheus metrics of all services.

Each metric is created on first use, so a service exports only those that concern it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
"""Histogram bounds in seconds, from the first token of a cached answer to the longest wait allowed."""
TOKEN_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 2)
"""Histogram bounds in seconds per token."""


class Metrics:
    """The metrics of one service, as objects of prometheus_client. Their exported names begin with `llava:`."""

    def __init__(self, registry: CollectorRegistry | None = None):
        self.registry = registry or CollectorRegistry()

    def text(self) -> tuple[bytes, str]:
        """Returns body and content type of the response of /metrics."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    # Requests

    @cached_property
    def requests(self) -> Counter:
        return self._counter(
            "requests", "Requests answered, by outcome: ok, aborted or an error code.", "model", "outcome"
        )

    @cached_property
    def rejected(self) -> Counter:
        return self._counter("rejected", "Requests refused before any work was done, by error code.", "reason")

    @cached_property
    def aborted(self) -> Counter:
        return self._counter("aborted", "Requests abandoned early: disconnect, shutdown or timeout.", "reason")

    @cached_property
    def retries(self) -> Counter:
        return self._counter("retries", "Requests sent to a second worker because the first did not answer.")

    @cached_property
    def queue_depth(self) -> Gauge:
        return self._gauge("queue_depth", "Requests waiting.")

    @cached_property
    def running(self) -> Gauge:
        return self._gauge("running", "Requests being answered.")

    @cached_property
    def permits_in_use(self) -> Gauge:
        return self._gauge("permits_in_use", "Slots in use of those that --limit-model-concurrency allows.")

    # Time

    @cached_property
    def queue_seconds(self) -> Histogram:
        return self._histogram("queue_seconds", "Seconds from arrival to the start of computation.", SECONDS)

    @cached_property
    def ttft_seconds(self) -> Histogram:
        return self._histogram(
            "ttft_seconds", "Seconds from arrival to the first token (on a controller, to the first byte).", SECONDS
        )

    @cached_property
    def tpot_seconds(self) -> Histogram:
        return self._histogram("tpot_seconds", "Seconds per token after the first.", TOKEN_SECONDS)

    @cached_property
    def e2e_seconds(self) -> Histogram:
        return self._histogram("e2e_seconds", "Seconds from arrival to the last byte.", SECONDS)

    @cached_property
    def image_decode_seconds(self) -> Histogram:
        return self._histogram("image_decode_seconds", "Seconds to decode one image.", SECONDS)

    @cached_property
    def vision_encode_seconds(self) -> Histogram:
        return self._histogram("vision_encode_seconds", "Seconds to prepare and encode a request's images.", SECONDS)

    # Tokens

    @cached_property
    def prompt_tokens(self) -> Counter:
        return self._counter("prompt_tokens", "Prompt tokens, image features included.")

    @cached_property
    def image_tokens(self) -> Counter:
        return self._counter("image_tokens", "Image features in prompts.")

    @cached_property
    def generation_tokens(self) -> Counter:
        return self._counter("generation_tokens", "Tokens generated.")

    @cached_property
    def feature_cache_hits(self) -> Counter:
        return self._counter("feature_cache_hits", "Images whose features were found in the cache.")

    @cached_property
    def feature_cache_queries(self) -> Counter:
        return self._counter("feature_cache_queries", "Images looked up in the feature cache.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"llava:{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"llava:{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"llava:{name}", text, registry=self.registry, buckets=bounds)
