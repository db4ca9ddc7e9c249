"""Every address for programs, and how a call of one is carried out: a place, a record, errors in its dialect.

The views are named, not imported: msgspec and the types of four dialects are of no use before the first call.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, current_app, g, request

from webapp.errors import UnknownAddress
from webapp.services.completion.completions import Completions
from webapp.services.completion.defaults import CompletionDefaults
from webapp.settings import Settings
from webapp.web.api.model_turns import ModelTurns
from webapp.web.api.places import Places
from webapp.web.api.record import Record
from webapp.web.error_answers import answer_error, wants_json

if TYPE_CHECKING:
    from webapp.web.api.counting import Counting

ROOM = "webapp.web.api"
COUNTING = threading.Lock()
CLIENT_GONE = 499
"""nginx' number for it; nobody reads it but the log."""


@dataclass(frozen=True)
class Route:
    """``view`` is "module:function" in this room. ``takes_place``: it generates, so it counts against the limits."""

    method: str
    paths: tuple[str, ...]
    view: str
    takes_place: bool = False

    @property
    def name(self) -> str:
        return self.paths[0]


ROUTES = (
    Route("POST", ("/v1/chat/completions", "/chat/completions"), "openai.chat:create", True),
    Route("POST", ("/v1/completions", "/completions"), "openai.completions:create", True),
    Route("POST", ("/v1/embeddings", "/embeddings"), "openai.embeddings:create", True),
    Route("GET", ("/v1/models",), "openai.models:index"),
    Route("GET", ("/v1/models/<path:name>",), "openai.models:show"),
    Route("POST", ("/v1/tokenize", "/tokenize"), "openai.tokens:tokenize"),
    Route("POST", ("/v1/detokenize", "/detokenize"), "openai.tokens:detokenize"),
    Route("POST", ("/v1/messages",), "anthropic.messages:create", True),
    Route("POST", ("/v1/messages/count_tokens",), "anthropic.messages:count_tokens"),
    Route("POST", ("/api/chat",), "ollama.chat:chat", True),
    Route("POST", ("/api/generate",), "ollama.generate:generate", True),
    Route("POST", ("/api/embed",), "ollama.embed:embed", True),
    Route("GET", ("/api/tags",), "ollama.models:tags"),
    Route("GET", ("/api/ps",), "ollama.models:running"),
    Route("POST", ("/api/show",), "ollama.models:show"),
    Route("GET", ("/api/version",), "ollama.models:version"),
    Route("POST", ("/switch-model",), "runner.routes:switch_model"),
    Route("POST", ("/update-config",), "runner.routes:update_config"),
    Route("GET", ("/status",), "runner.routes:status"),
    Route("POST", ("/exit",), "runner.routes:leave"),
    Route("GET", ("/metrics",), "metrics:show"),
    Route("GET", ("/openapi.json",), "openapi:show"),
)


def install(app: Flask, settings: Settings) -> None:
    """Adds the addresses, and ``app.extensions["completions"]``, of :mod:`webapp.services.completion.completions`."""
    defaults = CompletionDefaults(settings, app.extensions.get("presets"))
    app.extensions["completions"] = Completions(app.extensions["model_manager"], defaults)
    app.extensions["api_places"] = Places(settings)
    app.extensions["api_model_turns"] = ModelTurns()
    for route in ROUTES:
        for path in route.paths:
            view = functools.partial(call, route)
            app.add_url_rule(path, f"api {route.method} {path}", view, methods=[route.method])
    app.add_url_rule("/v1/", "api unknown", unknown, defaults={"path": ""}, methods=ANY_METHOD)
    app.add_url_rule("/v1/<path:path>", "api unknown", unknown, methods=ANY_METHOD)
    app.add_url_rule("/api/<path:path>", "api unknown", unknown, methods=ANY_METHOD)
    app.before_request(answer_models)


ANY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")


def call(route: Route, **arguments: Any) -> Response:
    """The view's answer, noted in a record that ends when the answer is closed."""
    name, client = f"{route.method} {route.name}", request.remote_addr or ""
    record = Record(name, client, on_end=counting().count, may_wait=route.takes_place)
    g.api_record = record
    give_back: Callable[[], None] = lambda: None  # noqa: E731
    try:
        give_back = take_place(route)
        response = answered(route, arguments)
    except BaseException as exc:
        give_back()
        record.error = getattr(exc, "code", type(exc).__name__)
        record.status = getattr(exc, "status", 500)
        record.end()
        raise
    record.status = response.status_code
    response.call_on_close(give_back)
    response.call_on_close(record.end)
    return response


def counting() -> Counting:
    """The figures of /metrics, begun with the first call: their library takes 40 ms to import."""
    from webapp.web.api.counting import Counting

    extensions = current_app.extensions
    if "api_counting" not in extensions:
        with COUNTING:
            made = Counting(extensions["model_manager"], extensions["api_places"])
            extensions.setdefault("api_counting", made)
    found: Counting = extensions["api_counting"]
    return found


def take_place(route: Route) -> Callable[[], None]:
    if not route.takes_place:
        return lambda: None
    places: Places = current_app.extensions["api_places"]
    return places.take(request.remote_addr or "")


def answered(route: Route, arguments: dict[str, Any]) -> Response:
    from webapp.web.api.answering import ClientGone

    module, _, function = route.view.partition(":")
    view = getattr(import_module(f"{ROOM}.{module}"), function)
    try:
        return view(**arguments)  # type: ignore[no-any-return]
    except ClientGone:
        return Response(status=CLIENT_GONE)


def unknown(path: str) -> Response:
    """Below /v1 and /api nobody has a page, so this speaks to programs only."""
    return answer_error(UnknownAddress(method=request.method, path=request.path))


def answer_models() -> Response | None:
    """``GET /models`` is a page for people; a program that asks for JSON gets OpenAI's list (base_url without /v1)."""
    path = request.path
    is_list = path == "/models" or path.startswith("/models/")
    if request.method != "GET" or not is_list or not wants_json():
        return None
    name = path.removeprefix("/models").strip("/")
    if name:
        return call(Route("GET", ("/v1/models/<name>",), "openai.models:show"), name=name)
    return call(Route("GET", ("/v1/models",), "openai.models:index"))
