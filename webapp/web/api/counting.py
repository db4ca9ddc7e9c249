"""``GET /metrics``: what it shows, counted with Prometheus' own client library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from webapp.manager.model_manager import ModelManager
from webapp.web.api.calls import Places, Record

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
ENGINE_WORDS = {
    "running": "Sequences that hold a slot",
    "waiting": "Sequences that wait for a slot",
    "max_sequences": "Slots",
    "cache_hits": "Prompts that began at a remembered state",
    "cache_misses": "Prompts that began at the start",
    "cache_bytes": "Memory of remembered states",
    "cache_limit_bytes": "Most memory remembered states may take",
    "cache_snapshots": "Remembered states",
}
GROWING = ("cache_hits", "cache_misses")


class Counting:
    """A registry of its own: one app, one set of figures."""

    def __init__(self, manager: ModelManager, places: Places) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "roost_api_requests", "API requests answered", ["route", "status"], registry=self.registry
        )
        self.gone = Counter("roost_api_disconnects", "Clients that left before the end", registry=self.registry)
        self.tokens = Counter("roost_api_tokens", "Tokens of API requests", ["kind"], registry=self.registry)
        self.first = Histogram(
            "roost_api_first_token_seconds", "Until the first token", buckets=SECONDS, registry=self.registry
        )
        self.whole = Histogram(
            "roost_api_request_seconds", "Until the end", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.registry.register(EngineFigures(manager, places))  # type: ignore[arg-type]

    def count(self, record: Record) -> None:
        self.requests.labels(record.route, str(record.status)).inc()
        self.whole.labels(record.route).observe(record.seconds)
        if record.first_token_s is not None:
            self.first.observe(record.first_token_s)
        for kind in ("prompt", "cached", "completion"):
            self.tokens.labels(kind).inc(getattr(record, f"{kind}_tokens"))
        if record.is_gone:
            self.gone.inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


class EngineFigures:
    """Read from the engine when asked for; without one, only what the web process knows."""

    def __init__(self, manager: ModelManager, places: Places) -> None:
        self._manager = manager
        self._places = places

    def collect(self) -> Iterator[Any]:
        status = self._manager.status()
        yield gauge("roost_api_open_requests", "API requests being answered", self._places.taken)
        yield gauge("roost_model_loaded", "1 when a model is loaded", status.phase in ("ready", "answering"))
        yield gauge("roost_engine_resident_bytes", "Memory of the engine process", self._manager.engine_memory_bytes())
        found = self._manager.counters()
        for name, value in found.items():
            yield self._family(name, value)
        if found:
            yield self._unowned(found)

    def _family(self, name: str, value: int) -> Any:
        if name.endswith("_total") or name in GROWING:
            base = name.removesuffix("_total")
            words = ENGINE_WORDS.get(name, f"{base.replace('_', ' ').capitalize()} since the model was loaded")
            return CounterMetricFamily(f"roost_engine_{base}", words, value)
        return gauge(f"roost_engine_{name}", ENGINE_WORDS.get(name, name.replace("_", " ").capitalize()), value)

    def _unowned(self, found: dict[str, int]) -> Any:
        """The leak guard: sequences in the engine that nobody waits for. Requests that have just come or gone may show
        for a moment; it must not stay above 0."""
        status = self._manager.status()
        extra = found["running"] + found["waiting"] - status.running - status.waiting
        return gauge("roost_engine_unowned_sequences", "Sequences nobody waits for (leak guard)", max(0, extra))


def gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, float(value))


def show() -> Response:
    counting: Counting = current_app.extensions["api_counting"]
    return Response(counting.text(), content_type=CONTENT_TYPE_LATEST)
