"""Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from transformers_detr.serving.model_registry import RegisteredModel
from transformers_detr.serving.request_timing import RequestTiming

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BYTES = tuple(4**power * 1024 for power in range(8))
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Metrics of one application, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "detr_requests",
            "Requests by model and status; 499 is a client that disconnected.",
            ("model", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "detr_stage_seconds",
            "Time of each stage of successful requests.",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.bytes = Histogram(
            "detr_request_bytes", "Size of request bodies in bytes.", buckets=_BYTES, registry=self.registry
        )
        self.batches = Histogram(
            "detr_batch_size",
            "Images per batch.",
            ("model",),
            buckets=_SIZES,
            registry=self.registry,
        )

    def register_models(self, models: Iterable[RegisteredModel]) -> None:
        """Export the state of models."""
        self.registry.register(_ModelCollector(tuple(models)))

    def record_request(self, model: str, status: int, size: int, timing: RequestTiming) -> None:
        """Count a request."""
        self.requests.labels(model, str(status)).inc()
        self.bytes.observe(size)
        if status == 200:
            for stage, seconds in timing.stages.items():
                self.seconds.labels(model, stage).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)


class _ModelCollector:
    """Collector of the current state of models."""

    def __init__(self, models: tuple[RegisteredModel, ...]):
        self._models = models

    def collect(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("detr_model_ready", "Whether a model is loaded.", labels=["model"])
        in_flight = GaugeMetricFamily("detr_requests_in_flight", "Requests in progress.", labels=["model"])
        for model in self._models:
            ready.add_metric([model.name], float(model.state == "ready"))
            in_flight.add_metric([model.name], model.in_flight)
        return [ready, in_flight]
