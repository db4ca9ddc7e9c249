"""The wrapper of every API request: its record for log and metrics, the limit of simultaneous requests, its model's
turn, and errors in the form of its dialect.

:func:`install` adds the rows of :mod:`.operations` to the app. No dialect is imported before its first request.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from flask import Flask, Response, abort, current_app, g, request
from msgspec import Struct, field

from webapp.errors import RoostError
from webapp.manager.manager import ModelManager
from webapp.settings import Settings
from webapp.web.api.operations import OPERATIONS, Operation, methods_of, name_request, named
from webapp.web.error_answers import answer_error, takes_anything, wants_json
from webapp.web.guard import asker
from webapp.web.peer import REFUSAL_KEY

log = logging.getLogger("roost.api")
CLIENT_GONE = 499
"""nginx's status for a client that disconnected before the response; only the log shows it."""
ANY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")
THREADS_FOR_PAGES = 4
TURN_POLL_S = 0.25
METRICS_LOCK = threading.Lock()


class ClientGone(Exception):
    """The client has disconnected."""


def install(app: Flask, settings: Settings) -> None:
    """Adds the routes."""
    app.extensions["api_limit"] = RequestLimit(settings)
    app.extensions["api_model_turns"] = ModelTurns()
    for op in OPERATIONS:
        if not op.view:  # the app's own route, which exists without the API too
            continue
        for path in op.paths:
            rule = path.replace("{name}", "<path:name>")
            view = functools.partial(call, op)
            # clients join a base_url that ends with a slash to a path in both ways
            app.add_url_rule(rule, f"api {op.method} {rule}", view, methods=[op.method], strict_slashes=False)
    app.add_url_rule("/v1", "api unknown", unknown, defaults={"path": ""}, methods=ANY_METHOD, strict_slashes=False)
    app.add_url_rule("/v1/<path:path>", "api unknown", unknown, methods=ANY_METHOD)
    app.add_url_rule("/api/<path:path>", "api unknown", unknown, methods=ANY_METHOD)
    operation = {"greeting": GREETING, **{op.key: op for op in OPERATIONS}}
    for path, page, key in SHARED_PAGES:
        if page not in app.view_functions:  # a server without pages
            page = f"api GET {path}"
            app.add_url_rule(path, page, no_page)
        app.view_functions[page] = functools.partial(answer_program, operation[key], app.view_functions[page])


GREETING = Operation("greeting", "runner", "GET", ("/",), "runner:greet")
SHARED_PAGES = (
    ("/", "chat.index", "greeting"),
    ("/models", "models.index", "models"),
    ("/models/<path:name>", "models.details", "model"),
)
"""URLs that are a page for people; programs get RWKV-Runner's greeting and OpenAI's list, because some are configured
with a base_url without /v1."""


def answer_program(op: Operation, page: Callable[..., Any], **arguments: str) -> Any:
    return call(op, **arguments) if wants_json() or takes_anything() else page(**arguments)


def no_page(**_: str) -> NoReturn:
    abort(404)


def call(op: Operation, **arguments: str) -> Response:
    """The view's response, with a record that ends when the response is closed."""
    client, g.request_id = request.remote_addr or "", f"req_{uuid.uuid4().hex}"
    record = Record(
        f"{op.method} {op.paths[0]}", client, id=g.request_id, on_end=the_metrics().count, may_wait=op.generates
    )
    g.api_record = record
    release: Callable[[], None] = lambda: None  # noqa: E731
    try:
        if op.generates:
            limit: RequestLimit = current_app.extensions["api_limit"]
            release = limit.enter(asker("api "))
        refused: RoostError | None = request.environ.get(REFUSAL_KEY)
        if refused is not None:
            raise refused
        # a <path:name> takes the slash at the end with it
        response: Response = named(op.view)(**{name: value.rstrip("/") for name, value in arguments.items()})
    except ClientGone:
        response = Response(status=CLIENT_GONE)
    except BaseException as exc:
        release()
        record.error = getattr(exc, "code", type(exc).__name__)
        record.status = getattr(exc, "status", 500)
        record.end()
        raise
    record.status = response.status_code
    name_request(response)
    response.call_on_close(release)
    response.call_on_close(record.end)
    return response


def unknown(path: str) -> Response:
    """No page has a URL below /v1 or /api, so the response is always JSON."""
    if methods := methods_of(request.path):
        response = answer_error(RoostError("wrong_method", method=request.method, path=request.path))
        response.headers["Allow"] = ", ".join(methods)
        return response
    return answer_error(RoostError("unknown_url", method=request.method, path=request.path))


class Record(Struct):
    """One request, for log and metrics. ``error``: an error code. Times are in seconds. ``on_end`` is called once, when
    the response is closed."""

    route: str
    client: str
    id: str = ""
    model: str = ""
    status: int = 0
    is_stream: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    error: str = ""
    is_gone: bool = False
    first_token_s: float | None = None
    loading_s: float = 0.0
    """How long the model was loading for it."""
    seconds: float = 0.0
    on_end: Callable[[Record], None] | None = None
    may_wait: bool = True
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """Functions that release the request's resources."""
    _began_at: float = field(default_factory=time.monotonic)
    _is_ended: bool = False

    def note_token(self) -> None:
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self._began_at

    def note_loading(self) -> None:
        self.loading_s = time.monotonic() - self._began_at

    def end(self) -> None:
        """Ends the record; later calls do nothing."""
        if self._is_ended:
            return
        self._is_ended = True
        self.seconds = time.monotonic() - self._began_at
        for release in self.at_end:
            release()
        log.info("%s", self)
        if self.on_end is not None:
            self.on_end(self)

    def __str__(self) -> str:
        shown = {
            "id": self.id,
            "route": self.route,
            "client": self.client,
            "model": self.model,
            "status": self.status,
            "stream": self.is_stream,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "finish": ",".join(self.finish_reasons),
            "error": self.error,
            "gone": self.is_gone,
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 4),
            "seconds": round(self.seconds, 4),
        }
        return json.dumps({name: value for name, value in shown.items() if value not in ("", None, False)})


class RequestLimit:
    """Limits simultaneous generations, in total and per client, as identified by :func:`webapp.web.guard.asker`. Some
    of ``http_threads`` are always reserved for pages, whatever ``api_streams`` says."""

    def __init__(self, settings: Settings) -> None:
        self.limit = max(1, min(settings.api_streams, settings.http_threads - THREADS_FOR_PAGES))
        self.per_client = settings.api_streams_per_client
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def open(self) -> int:
        with self._lock:
            return sum(self._open.values())

    def enter(self, client: str) -> Callable[[], None]:
        """Returns a function that ends the request; it may be called twice. Raises ``too_many_streams`` or
        ``server_busy`` at the limit."""
        with self._lock:
            if self._open[client] >= self.per_client:
                raise RoostError("too_many_streams", limit=self.per_client)
            if sum(self._open.values()) >= self.limit:
                raise RoostError("server_busy", limit=self.limit)
            self._open[client] += 1
        is_left = threading.Event()

        def leave() -> None:
            with self._lock:
                if is_left.is_set():
                    return
                is_left.set()
                self._open[client] -= 1
                if not self._open[client]:
                    del self._open[client]

        return leave


class ModelTurns:
    """If requests choose the model: requests for the same model run together, those for another wait, in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._model = ""
        self._open = 0

    def enter(self, model: str, check: Callable[[], None]) -> None:
        """Returns when it is ``model``'s turn; calls ``check`` at intervals, which may raise."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self._is_others(model):
                    self._changed.wait(TURN_POLL_S)
                    check()
                self._take(model)
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def enter_at_once(self, model: str) -> None:
        """For requests that are fast and must not wait: raises ``server_busy`` while it is another model's turn."""
        with self._changed:
            if self._is_others(model):
                raise RoostError("server_busy", limit=self._open)
            self._take(model)

    def leave(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _is_others(self, model: str) -> bool:
        return bool(self._open) and self._model != model

    def _take(self, model: str) -> None:
        self._model = model
        self._open += 1


SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
ENGINE_TEXTS = {
    "running": "Sequences that hold a slot",
    "waiting": "Sequences that wait for a slot",
    "max_sequences": "Slots",
    "slots_used": "Slots in use",
    "states_alive": "States in memory: of answers, of state files in use, of snapshots",
    "state_leaks": "Slots without a sequence or with another state than the one written (leak guard; must stay 0)",
    "cache_hits": "Prompts that started from a snapshot",
    "cache_misses": "Prompts that were processed from the start",
    "cache_bytes": "Memory of the snapshots",
    "cache_limit_bytes": "Maximum memory of the snapshots",
    "cache_snapshots": "Snapshots in memory",
    "snapshot_files": "Snapshots on disk",
    "snapshot_file_bytes": "Disk space of the snapshots",
    "snapshot_file_hits": "Prompts that started from a snapshot on disk",
    "snapshot_files_damaged": "Damaged snapshots on disk, whose prompts were processed again",
}
GROWING = ("state_leaks", "cache_hits", "cache_misses", "snapshot_file_hits", "snapshot_files_damaged")


def the_metrics() -> Metrics:
    """Created at the first call, because Prometheus' library takes 40 ms to import."""
    extensions = current_app.extensions
    if "api_metrics" not in extensions:
        with METRICS_LOCK:
            extensions.setdefault("api_metrics", Metrics(extensions["model_manager"], extensions["api_limit"]))
    found: Metrics = extensions["api_metrics"]
    return found


def metrics() -> Response:
    """``GET /metrics``."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return Response(generate_latest(the_metrics().registry), content_type=CONTENT_TYPE_LATEST)


class Metrics:
    """The figures of /metrics, in a registry of its own: one set per app. Engine figures are read from the engine on
    request."""

    def __init__(self, manager: ModelManager, limit: RequestLimit) -> None:
        import prometheus_client as prometheus

        self._manager, self._limit = manager, limit
        self.registry = own = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "roost_api_requests", "API requests answered", ["route", "status"], registry=own
        )
        self._gone = prometheus.Counter("roost_api_disconnects", "Clients that left before the end", registry=own)
        self._tokens = prometheus.Counter("roost_api_tokens", "Tokens of API requests", ["kind"], registry=own)
        self._first = prometheus.Histogram(
            "roost_api_first_token_seconds", "Until the first token", buckets=SECONDS, registry=own
        )
        self._whole = prometheus.Histogram(
            "roost_api_request_seconds", "Until the end", ["route"], buckets=SECONDS, registry=own
        )
        own.register(self)  # type: ignore[arg-type]

    def count(self, record: Record) -> None:
        self._requests.labels(record.route, str(record.status)).inc()
        self._whole.labels(record.route).observe(record.seconds)
        if record.first_token_s is not None:
            self._first.observe(record.first_token_s)
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(kind).inc(getattr(record, f"{kind}_tokens"))
        if record.is_gone:
            self._gone.inc()

    def collect(self) -> Iterator[Any]:
        """The current gauges; without an engine, only the web process's own."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, text, float(value))

        status, engine = self._manager.status(), self._manager.counters()
        yield gauge("roost_api_open_requests", "API requests being answered", self._limit.open)
        yield gauge("roost_model_loaded", "1 when a model is loaded", status.phase in ("ready", "answering"))
        yield gauge("roost_engine_resident_bytes", "Memory of the engine process", self._manager.engine_memory_bytes())
        for name, value in engine.items():
            base = name.removesuffix("_total")
            text = ENGINE_TEXTS.get(name, base.replace("_", " ").capitalize())
            if base != name and name not in ENGINE_TEXTS:
                text += " since the model was loaded"
            family = CounterMetricFamily if base != name or name in GROWING else GaugeMetricFamily
            yield family(f"roost_engine_{base}", text, value)
        if engine:
            # Requests that have just started or ended may count for a moment; the value must not stay above 0.
            extra = engine["running"] + engine["waiting"] - status.running - status.waiting
            text = "Sequences nobody waits for (leak guard)"
            yield gauge("roost_engine_unowned_sequences", text, max(0, extra))
