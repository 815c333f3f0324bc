"""What the service counts, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from transformers_detr.serving.model_registry import HostedModel
from transformers_detr.serving.request_timing import Timing

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BYTES = tuple(4**power * 1024 for power in range(8))
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one service; those of other services in the process are their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "detr_requests",
            "Requests by model and status; 499 is a client that went.",
            ("model", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "detr_stage_seconds",
            "Time of each stage of the answered requests.",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.bytes = Histogram(
            "detr_request_bytes", "Bytes of the bodies of requests.", buckets=_BYTES, registry=self.registry
        )
        self.batches = Histogram(
            "detr_batch_size",
            "Pictures that went through a model together.",
            ("model",),
            buckets=_SIZES,
            registry=self.registry,
        )

    def follow(self, models: Iterable[HostedModel]) -> None:
        """Show the state of models at each reading."""
        self.registry.register(_States(tuple(models)))

    def finished(self, model: str, status: int, size: int, timing: Timing) -> None:
        """Count a request."""
        self.requests.labels(model, str(status)).inc()
        self.bytes.observe(size)
        if status == 200:
            for stage, seconds in timing.stages.items():
                self.seconds.labels(model, stage).observe(seconds)

    def text(self) -> bytes:
        """Return all of it in the text format."""
        return generate_latest(self.registry)


class _States:
    """What is true of the models at the moment that it is asked for."""

    def __init__(self, models: tuple[HostedModel, ...]):
        self._models = models

    def collect(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("detr_model_ready", "Whether a model is loaded.", labels=["model"])
        under_way = GaugeMetricFamily("detr_requests_under_way", "Requests that have a place.", labels=["model"])
        for model in self._models:
            ready.add_metric([model.name], float(model.state == "ready"))
            under_way.add_metric([model.name], model.under_way)
        return [ready, under_way]
