"""The strip and its menu as fragments; load, unload, cancel. Answers come at once, progress over the page's socket."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, has_request_context, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.manager.manager import ModelManager
from webapp.services.strategy.on_load import strategy_on_load
from webapp.web.fragments import current_locale, render_page, translator, wants_fragment
from webapp.web.login import local_path
from webapp.web.status.menu import menu_context
from webapp.web.status.shell import shell_context
from webapp.web.status.strip import strip_context

blueprint = Blueprint("status", __name__, url_prefix="/status")
NAME_CHARS = 500


@blueprint.app_context_processor
def shell_words() -> dict[str, Any]:
    """``shell`` for base.html; made only if a template asks."""
    return {"shell": LazyShell()} if has_request_context() else {}


class LazyShell:
    """Stands for :class:`~webapp.web.status.contexts.Shell`: fragments never need it, so it costs them nothing."""

    def __getattr__(self, name: str) -> Any:
        made = shell_context(the_manager(), translator(current_locale()), current_locale())
        self.__dict__.update(vars(made))
        return getattr(made, name)


@blueprint.get("/strip")
def strip() -> Response:
    return render_page("status/_strip.html", {"strip": strip_context(the_manager(), translator(current_locale()))})


@blueprint.get("/menu")
def menu() -> Response:
    return answer()


@blueprint.post("/load")
def load() -> Response | BaseResponse:
    """The named model, or the chosen one again; with ``anyway`` the one that was refused because it does not fit."""
    try:
        manager, model = the_manager(), request.form.get("model", "")[:NAME_CHARS] or None
        if request.form.get("anyway"):
            manager.load_anyway()
            return done()
        strategy = strategy_on_load(manager.library, model, manager.status().strategy) if model else None
        manager.load(model=model, strategy=strategy)
    except RoostError as exc:
        if wants_fragment():
            return answer(exc)
        raise
    return done()


@blueprint.post("/unload")
def unload() -> Response | BaseResponse:
    the_manager().unload()
    return done()


@blueprint.post("/cancel")
def cancel() -> Response | BaseResponse:
    the_manager().cancel_load()
    return done()


def done() -> Response | BaseResponse:
    """The menu as it is now; for a form posted without htmx, back to the page it stood on."""
    if wants_fragment():
        return answer()
    back = urlsplit(request.headers.get("Referer", ""))
    return redirect(local_path(back.path) if back.netloc == request.host else "/", 303)


def answer(refusal: RoostError | None = None) -> Response:
    settings = current_app.extensions["settings"]
    locale = current_locale()
    menu = menu_context(the_manager(), settings, translator(locale), locale, refusal)
    return render_page("status/_menu.html", {"menu": menu})


def the_manager() -> ModelManager:
    manager: ModelManager = current_app.extensions["model_manager"]
    return manager
