"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The figures of one service."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter(
            "panodetr_requests", "Requests answered.", ["route", "status"], registry=own
        )
        self.latency = Histogram(
            "panodetr_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=own,
        )
        self.errors = Counter("panodetr_errors", "Errors by kind.", ["kind"], registry=own)
        self.queue_pixels = Gauge(
            "panodetr_queue_pixels", "Pixels of the images that wait.", registry=own
        )
        self.accepted = Gauge(
            "panodetr_accepted", "Images that wait or are worked on.", registry=own
        )
        self.batch_images = Histogram(
            "panodetr_batch_images",
            "Images of a batch.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=own,
        )
        self.batch_pixels = Histogram(
            "panodetr_batch_pixels",
            "Pixels of a batch.",
            buckets=(1e4, 1e5, 1e6, 1e7),
            registry=own,
        )
        self.model_processes = Gauge(
            "panodetr_model_processes", "Model processes that are alive.", registry=own
        )
        self.restarts = Counter("panodetr_restarts", "Model processes that died.", registry=own)

    def text(self) -> bytes:
        """Write them for Prometheus."""
        return generate_latest(self._registry)
