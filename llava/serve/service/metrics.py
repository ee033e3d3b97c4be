"""The Prometheus metrics of all services, each made when it is first touched: a controller writes no tokens."""

from __future__ import annotations

from functools import cached_property
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
"""Bounds of the histograms: a cached answer's first token up to the longest wait that is allowed."""
TOKEN_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 2)


class Metrics:
    """Names as `llava:requests_total`; the attributes below are prometheus_client's own objects."""

    def __init__(self, registry: CollectorRegistry | None = None):
        self.registry = registry or CollectorRegistry()

    def text(self) -> tuple[bytes, str]:
        """What /metrics answers: body and content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    # Requests

    @cached_property
    def requests(self) -> Counter:
        return self._counter(
            "requests", "requests answered, by outcome: ok, aborted, or an error's code", "model", "outcome"
        )

    @cached_property
    def rejected(self) -> Counter:
        return self._counter("rejected", "requests refused before any work, by the error's code", "reason")

    @cached_property
    def aborted(self) -> Counter:
        return self._counter("aborted", "requests given up before their end: disconnect, shutdown, timeout", "reason")

    @cached_property
    def retries(self) -> Counter:
        return self._counter("retries", "requests sent to a second worker because the first gave no answer")

    @cached_property
    def queue_depth(self) -> Gauge:
        return self._gauge("queue_depth", "requests that wait")

    @cached_property
    def running(self) -> Gauge:
        return self._gauge("running", "requests being answered")

    @cached_property
    def permits_in_use(self) -> Gauge:
        return self._gauge("permits_in_use", "places taken of those that --limit-model-concurrency allows")

    # Time

    @cached_property
    def queue_seconds(self) -> Histogram:
        return self._histogram("queue_seconds", "from arrival to the first computation", SECONDS)

    @cached_property
    def ttft_seconds(self) -> Histogram:
        return self._histogram(
            "ttft_seconds", "from arrival to the first token (a controller: the first byte)", SECONDS
        )

    @cached_property
    def tpot_seconds(self) -> Histogram:
        return self._histogram("tpot_seconds", "a token, after the first", TOKEN_SECONDS)

    @cached_property
    def e2e_seconds(self) -> Histogram:
        return self._histogram("e2e_seconds", "from arrival to the last byte", SECONDS)

    @cached_property
    def image_decode_seconds(self) -> Histogram:
        return self._histogram("image_decode_seconds", "decoding one image", SECONDS)

    @cached_property
    def vision_encode_seconds(self) -> Histogram:
        return self._histogram("vision_encode_seconds", "preparing and encoding the images of one request", SECONDS)

    # Tokens

    @cached_property
    def prompt_tokens(self) -> Counter:
        return self._counter("prompt_tokens", "tokens of prompts, images counted by their features")

    @cached_property
    def image_tokens(self) -> Counter:
        return self._counter("image_tokens", "features of images in prompts")

    @cached_property
    def generation_tokens(self) -> Counter:
        return self._counter("generation_tokens", "tokens written")

    @cached_property
    def feature_cache_hits(self) -> Counter:
        return self._counter("feature_cache_hits", "images whose features were still there")

    @cached_property
    def feature_cache_queries(self) -> Counter:
        return self._counter("feature_cache_queries", "images asked about")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"llava:{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"llava:{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"llava:{name}", text, registry=self.registry, buckets=bounds)
