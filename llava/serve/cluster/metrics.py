"""Exports the state of the workers as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from llava.serve.cluster.registry import Registry


class WorkerCollector(Collector):
    """Reads the registry each time that the metrics are requested."""

    def __init__(self, registry: Registry):
        self._registry = registry

    def collect(self) -> Iterable[GaugeMetricFamily]:
        up = GaugeMetricFamily("llava:worker_up", "1 if the worker receives requests.", labels=["worker"])
        in_flight = GaugeMetricFamily(
            "llava:worker_in_flight", "Requests in progress at the worker.", labels=["worker"]
        )
        age = GaugeMetricFamily("llava:heartbeat_age_seconds", "Seconds since the last heartbeat.", labels=["worker"])
        for state in self._registry.states():
            up.add_metric([state.name], float(state.routable))
            in_flight.add_metric([state.name], state.in_flight)
            age.add_metric([state.name], state.heard_ago_s)
        return [up, in_flight, age]
