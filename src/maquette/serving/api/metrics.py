"""Counts and times of the server, in Prometheus' text format."""

from typing import Any

from maquette.base.errors import need

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        client = need("prometheus_client", "serve")
        self._write = client.generate_latest
        self._registry = registry = client.CollectorRegistry()
        self._requests = client.Counter(
            "maquette_requests", "Number of requests", ["route", "status"], registry=registry
        )
        self._seconds = client.Histogram(
            "maquette_request_seconds", "Seconds of a request, its answer included", ["route"],
            registry=registry, buckets=BUCKETS,
        )  # fmt: skip
        self._tokens = client.Counter(
            "maquette_tokens", "Number of tokens of prompts and answers", ["model", "part"],
            registry=registry,
        )  # fmt: skip
        self._first = client.Histogram(
            "maquette_first_token_seconds", "Seconds to the first token of an answer", ["model"],
            registry=registry, buckets=BUCKETS,
        )  # fmt: skip
        self._pictures = client.Counter(
            "maquette_pictures", "Number of pictures made", ["model"], registry=registry
        )
        self._live = client.Gauge(
            "maquette_engine_requests", "Number of requests in a run's engine", ["model"],
            registry=registry,
        )  # fmt: skip

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that is over; route: the pattern of its path."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def tokens(self, model: str, prompt: int, answer: int) -> None:
        """Count tokens."""
        self._tokens.labels(model, "prompt").inc(prompt)
        self._tokens.labels(model, "answer").inc(answer)

    def first_token(self, model: str, seconds: float) -> None:
        """Count the time to a first token."""
        self._first.labels(model).observe(seconds)

    def pictures(self, model: str, count: int) -> None:
        """Count pictures."""
        self._pictures.labels(model).inc(count)

    def text(self, live: dict[str, int]) -> bytes:
        """All of it; live: number of requests in each engine."""
        for model, count in live.items():
            self._live.labels(model).set(count)
        written: Any = self._write(self._registry)
        return bytes(written)
