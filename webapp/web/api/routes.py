"""How a call of an address for programs is carried out: a place, a record, errors in its dialect."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask import Flask, Response, current_app, g, request

from webapp.errors import RoostError, UnknownAddress
from webapp.services.generation.completions import Completions
from webapp.settings import Settings
from webapp.web.api.calls import ModelTurns, Places, Record
from webapp.web.api.operations import OPERATIONS, Operation, named
from webapp.web.error_answers import answer_error, wants_json
from webapp.web.socket.channel import REFUSAL_KEY

if TYPE_CHECKING:
    from webapp.web.api.counting import Counting

COUNTING = threading.Lock()
CLIENT_GONE = 499
"""nginx' number for it; nobody reads it but the log."""


def install(app: Flask, settings: Settings) -> None:
    """Adds the addresses, and ``app.extensions["completions"]``, of :mod:`webapp.services.generation.completions`."""
    app.extensions["completions"] = Completions(app.extensions["model_manager"], app.extensions["presets"])
    app.extensions["api_places"] = Places(settings)
    app.extensions["api_model_turns"] = ModelTurns()
    for op in OPERATIONS:
        if not op.view:  # the app's own, there without the API as well
            continue
        for path in op.paths:
            rule = path.replace("{name}", "<path:name>")
            view = functools.partial(call, op)
            # clients join a base_url that ends with a slash to a path as they like
            app.add_url_rule(rule, f"api {op.method} {rule}", view, methods=[op.method], strict_slashes=False)
    app.add_url_rule("/v1", "api unknown", unknown, defaults={"path": ""}, methods=ANY_METHOD, strict_slashes=False)
    app.add_url_rule("/v1/<path:path>", "api unknown", unknown, methods=ANY_METHOD)
    app.add_url_rule("/api/<path:path>", "api unknown", unknown, methods=ANY_METHOD)
    app.before_request(answer_models)


ANY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")


def call(op: Operation, **arguments: str) -> Response:
    """The view's answer, noted in a record that ends when the answer is closed."""
    name, client = f"{op.method} {op.path}", request.remote_addr or ""
    record = Record(name, client, on_end=counting().count, may_wait=op.takes_place)
    g.api_record = record
    give_back: Callable[[], None] = lambda: None  # noqa: E731
    try:
        give_back = take_place(op)
        response = answered(op, arguments)
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


def take_place(op: Operation) -> Callable[[], None]:
    if not op.takes_place:
        return lambda: None
    places: Places = current_app.extensions["api_places"]
    return places.take(request.remote_addr or "")


def answered(op: Operation, arguments: dict[str, str]) -> Response:
    from webapp.web.api.answering import ClientGone

    refused: RoostError | None = request.environ.get(REFUSAL_KEY)
    if refused is not None:
        raise refused
    try:
        # a <path:name> takes the slash at the end with it
        return named(op.view)(**{name: value.rstrip("/") for name, value in arguments.items()})  # type: ignore[no-any-return]
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
    operation = {op.key: op for op in OPERATIONS}
    return call(operation["model"], name=name) if name else call(operation["models"])
