"""What Prometheus is told, in a registry of its own, so that two services in one process do not mix."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and gauges of one service."""

    def __init__(self) -> None:
        """All stand at 0."""
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter("inlier_requests", "Requests answered", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "inlier_request_seconds", "From a request's head to its answer", ["route"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._verdicts = Counter("inlier_verdicts", "Verdicts recorded", ["model", "verdict"], registry=registry)
        self._parts = Histogram(
            "inlier_stage_seconds", "What a photo's time goes into", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._batch = Histogram(
            "inlier_batch_photos", "Photos inspected together", buckets=range(1, 9), registry=registry
        )
        self.waiting = Gauge("inlier_waiting_photos", "Photos taken and not yet answered", registry=registry)
        self.held = Gauge("inlier_held_bytes", "Bytes of photos in memory", registry=registry)
        self._model = Gauge("inlier_model_info", "The model in use", ["model", "identity"], registry=registry)
        self._reloads = Counter("inlier_model_reloads", "Models replaced while running", ["model"], registry=registry)
        self._refused = Gauge(
            "inlier_model_refused", "1 while a folder holds something that was refused", ["model"], registry=registry
        )
        self._rejects = Gauge(
            "inlier_recent_reject_share", "Share rejected of the latest photos", ["model"], registry=registry
        )
        self._evidence = Gauge(
            "inlier_drift_evidence", "Evidence that photos changed, as log10 of a martingale", ["model"],
            registry=registry,
        )  # fmt: skip
        self._alarm = Gauge("inlier_drift_alarm", "1 once photos changed", ["model"], registry=registry)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Tells of a request that is over."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_batch(self, num_photos: int) -> None:
        """Tells of photos that were inspected together."""
        self._batch.observe(num_photos)

    def count_verdict(self, model: str, verdict: str) -> None:
        """Tells of a verdict that is recorded."""
        self._verdicts.labels(model, verdict).inc()

    def time_stages(self, seconds: Mapping[str, float]) -> None:
        """Tells what a photo's time went into."""
        for stage, of in seconds.items():
            self._parts.labels(stage).observe(of)

    def use_model(self, name: str, identity: str, *, before: str | None) -> None:
        """Tells which model is in use under a name, and whether it took another one's place."""
        if before is not None:
            self._model.remove(name, before)
            self._reloads.labels(name).inc()
        self._model.labels(name, identity).set(1)
        self._refused.labels(name).set(0)

    def refuse_model(self, name: str) -> None:
        """Tells of a folder whose content cannot be used."""
        self._refused.labels(name).set(1)

    def show_drift(self, model: str, *, reject_share: float, evidence: float, is_alarm: bool) -> None:
        """Tells how a model's verdicts look of late."""
        self._rejects.labels(model).set(reject_share)
        self._evidence.labels(model).set(evidence)
        self._alarm.labels(model).set(is_alarm)

    def text(self) -> bytes:
        """All of them, in the form that Prometheus reads."""
        return generate_latest(self._registry)
