"""The shell around every page, and the status strip with its menu: load, unload, cancel. Responses are immediate;
progress comes over the page's socket."""

from __future__ import annotations

import re
from os.path import normpath
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, current_app, has_request_context, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.engine.options import AUTOMATIC
from webapp.errors import RoostError, error_from_dict
from webapp.i18n import LOCALES, size_text
from webapp.manager.library import ModelEntry
from webapp.manager.target import ModelStatus
from webapp.services.strategy import strategy_on_load
from webapp.web.guard import current_role
from webapp.web.jobs import strip_jobs
from webapp.web.kit import page as kit
from webapp.web.login import page_before
from webapp.web.roles import least_role, most_needed

blueprint = Blueprint("status", __name__, url_prefix="/status")
NAME_CHARS = 500
HTML_LANGS = {"en": "en", "zh": "zh-Hans"}
PANEL_COOKIE = "roost_panel"
PART_OF = {"prompts": "presets", "personas": "presets", "batch": "notebook"}
"""Blueprints that are tabs of another page."""
LOADED = ("ready", "answering")
MUSIC_NAME = re.compile(r"midi|abc|music", re.IGNORECASE)
LIGHTS = {
    "empty": "off",
    "loading": "waiting",
    "ready": "idle",
    "answering": "answering",
    "failed": "failed",
    "unloading": "waiting",
}
PHASE_WORDS = {
    "ready": "status.idle",
    "answering": "status.answering",
    "failed": "status.failed",
    "unloading": "chat.status.unloading",
}


@blueprint.app_context_processor
def shell_words() -> kit.Values:
    """``shell`` for base.html; computed only if a template uses it."""
    return {"shell": LazyShell()} if has_request_context() else {}


class LazyShell:
    """The values of :func:`shell` as attributes, computed only if used: fragments do not need them."""

    def __getattr__(self, name: str) -> Any:
        self.__dict__.update(shell(kit.current_page()))
        return self.__dict__[name]


def shell(page: kit.PageContext) -> kit.Values:
    """``base.html``, on every page, with :func:`browser_choices`; ``html_lang``: the document's language tag;
    ``commands_url``: where the page posts its commands, the ``do`` of its blueprint;
    ``is_owner_needed``: the page's content can only be changed by a higher role than the reader's."""
    commands = (f"{name}.do" for name in request.blueprints)
    return {
        **kit.browser_choices(),
        "commands_url": next((url_for(name) for name in commands if name in current_app.view_functions), ""),
        "html_lang": HTML_LANGS.get(page.locale, page.locale),
        "is_panel_open": request.cookies.get(PANEL_COOKIE) != "closed",
        "rail": [
            {
                "label": page.t(key),
                "icon": icon,
                "url": current_app.url_for(endpoint),
                "is_current": endpoint.partition(".")[0] in {*request.blueprints, PART_OF.get(request.blueprint or "")},
            }
            for key, icon, endpoint in current_app.extensions["rail"]
            if current_role() >= least_role(endpoint) and (endpoint != "compose.index" or _can_compose(page))
        ],
        "languages": [
            {"code": code, "name": name, "url": _url_in(code), "is_current": code == page.locale}
            for code, name in LOCALES.items()
        ],
        "strip": strip(page.status, page.t),
        "jobs": strip_jobs(page),
        "role": current_role().name.lower(),
        "is_owner_needed": current_role() < most_needed(name for name in request.blueprints if name != "people"),
    }


def music_models(page: kit.PageContext) -> list[ModelEntry]:
    """The library's music models. Never walks through folders; opens only files whose name may belong to one."""
    library = page.manager.library
    files = (file for file in library.known_files() if MUSIC_NAME.search(file.name))
    entries = (library.entry_at(file.path) for file in files)
    return [entry for entry in entries if entry.inspection is not None and entry.inspection.kind == "music"]


def _can_compose(page: kit.PageContext) -> bool:
    """Whether there is a model to compose with."""
    return (page.model is not None and page.model.kind == "music") or bool(music_models(page))


def _url_in(locale: str) -> str:
    """This page in another language; only for pages that GET can request again."""
    path = request.path if request.method == "GET" else "/"
    kept = [(name, value) for name, value in request.args.items(multi=True) if name in ("at", "q")]
    return f"{path}?{urlencode([*kept, ('lang', locale)])}"


# the strip


def strip(status: ModelStatus, t: kit.Translator) -> kit.Values:
    """``status/_strip.html``. ``light``: idle, waiting, answering, failed or off; ``percent`` only during a load;
    ``silent_s`` and ``engine_note`` as in ModelStatus."""
    percent = load_percent(status)
    if status.silent_s:
        word = t("status.silent", seconds=status.silent_s)
    elif percent is not None:
        word = loading_word(status, t)
    else:
        word = t(PHASE_WORDS.get(status.phase, "chat.status.not_loaded"))
    slots = ""
    if status.phase == "answering":
        slots = t("chat.status.slots", running=status.running, slots=status.slots)
        slots += t("chat.status.waiting", count=status.waiting) if status.waiting else ""
    note = status.engine_note if status.model and status.chosen_strategy == AUTOMATIC else ""
    return {
        "model": status.model or t("status.no_model"),
        "strategy": status.strategy if status.model else "",
        "adapter": status.adapter,
        "state": status.state,
        "light": "waiting" if status.silent_s else LIGHTS.get(status.phase, "off"),
        "word": word,
        "percent": percent,
        "slots": slots,
        "silent_s": status.silent_s,
        "engine_note": note,
        "engine_word": t(f"status.engine_{note}") if note else "",
    }


def loading_word(status: ModelStatus, t: kit.Translator) -> str:
    """The current step of a load, with its progress."""
    if status.step:
        return t(f"status.{status.step}", percent=load_percent(status), done=status.step_done, total=status.step_total)
    return t("status.loading_percent", percent=load_percent(status))


def load_percent(status: ModelStatus) -> int | None:
    if status.phase != "loading":
        return None
    return int(100 * status.done_bytes / status.total_bytes) if status.total_bytes else 0


@blueprint.get("/strip")
def show_strip() -> Response:
    page = kit.current_page()
    shown = {"strip": strip(page.status, page.t), "strip_jobs": strip_jobs(page)}
    return kit.render_page("status/_strip.html", shown)


# the menu


def menu(page: kit.PageContext, refusal: RoostError | None = None) -> kit.Values:
    """``status/_menu.html``: the models that can be loaded, with what is known about each without loading it.

    ``refusal``: why a command of this menu was refused. ``error_message``: why the last load failed; ``is_changing``:
    the menu will be outdated soon; ``can_load_anyway``: the error is that the model does not fit."""
    status = page.status
    entries = sorted(page.manager.library.list(), key=lambda entry: entry.error is not None)
    problem = status.error or status.notice
    error = refusal or (error_from_dict(problem) if problem else None)
    message, hint = page.explain(error) if error else ("", "")
    return {
        "models": [choice for entry in entries if _is_listed(entry, choice := _choice(page, entry))],
        "can_load": status.phase in ("empty", "failed"),
        "can_unload": status.phase in LOADED,
        "can_cancel": status.phase == "loading",
        "models_dir": str(page.settings.models_dir),
        "is_changing": status.phase in ("loading", "unloading"),
        "error_message": message,
        "error_hint": hint,
        "can_load_anyway": error is not None and error.code == "model_does_not_fit",
    }


def _is_listed(entry: ModelEntry, choice: kit.Values) -> bool:
    """A music model is listed only while it is loaded, because it does not answer chats."""
    return entry.inspection is None or entry.inspection.kind == "model" or choice["is_loaded"]


def _choice(page: kit.PageContext, entry: ModelEntry) -> kit.Values:
    status = page.status
    is_usable = entry.error is None
    is_loaded = is_usable and status.phase in LOADED and normpath(status.model_path) == normpath(entry.path)
    facts = _facts(entry, page.t) if entry.error is None else page.explain(entry.error, entry.name)[0]
    return {"name": entry.name, "facts": facts, "is_loaded": is_loaded, "is_usable": is_usable}


def _facts(entry: ModelEntry, t: kit.Translator) -> str:
    """For example "RWKV-7 · 191M parameters · 382 MB"."""
    found = entry.inspection
    parts = [f"RWKV-{found.config.architecture}"] if found and found.config else []
    if found and found.parameters:
        parts.append(kit.parameters_text(found, t))
    parts.append(size_text(entry.size_bytes).replace(" ", "\u00a0"))
    return " · ".join(parts)


@blueprint.get("/menu")
def show_menu() -> Response:
    return _menu_now()


@blueprint.post("/load")
def load() -> Response | BaseResponse:
    """Loads the named model, or the chosen one again; with ``anyway`` the one refused because it does not fit."""
    manager, model = kit.current_page().manager, request.form.get("model", "")[:NAME_CHARS] or None
    try:
        if request.form.get("anyway"):
            manager.load_anyway()
        else:
            strategy = strategy_on_load(manager.library, model, manager.status().chosen_strategy) if model else None
            manager.load(model=model, strategy=strategy)
    except RoostError as exc:
        if kit.wants_fragment():
            return _menu_now(exc)
        raise
    return _done()


@blueprint.post("/unload")
def unload() -> Response | BaseResponse:
    kit.current_page().manager.unload()
    return _done()


@blueprint.post("/cancel")
def cancel() -> Response | BaseResponse:
    kit.current_page().manager.cancel_load()
    return _done()


# the command palette

THEME_ICONS = {"": "monitor", "light": "sun", "dark": "moon"}
CHAT_ROWS = (
    ("stop", "#composer[data-answering] .stop", "square", "Esc"),
    ("search", "#search", "search", "/"),
    ("write", "#prompt", "pencil", ""),
    ("attach", "#attach", "paperclip", ""),
    ("panel", ".chat-head [data-panel-toggle]", "sliders-horizontal", ""),
    ("list", "[data-drawer-toggle]", "panel-left", ""),
    ("copy", "#messages .answer:last-child [data-copy]", "copy", ""),
    ("again", "#messages .answer:last-child [value^=regenerate]", "refresh-cw", ""),
)
KEYS = (
    (("Ctrl", "K"), "palette"),
    (("?",), "keys"),
    (("Ctrl", "Shift", "O"), "new"),
    (("/",), "search"),
    (("Enter",), "send"),
    (("Shift", "Enter"), "line"),
    (("↑",), "edit"),
    (("Esc",), "stop"),
    (("←", "→"), "versions"),
    (("↑", "↓"), "menu"),
    (("Tab",), "next"),
)


TOUR = (
    ("model", ".strip-button"),
    ("write", "#composer"),
    ("answer", "#messages .answer:last-child .foot"),
    ("panel", ".chat-head [data-panel-toggle]"),
    ("more", "[popovertarget=appearance-menu]"),
)
"""Steps of the tour, each with the element that it explains, if the page has it."""


def palette(page: kit.PageContext) -> kit.Values:
    """``status/_palette.html``. A row has a ``url`` to open, a ``model`` to load, or a selector of an element to
    ``press``; the page leaves out elements that it does not have."""
    t, words = page.t, shell(page)
    chat = [
        {"label": t(f"palette.do.{name}"), "press": press, "icon": icon, "key": key}
        for name, press, icon, key in CHAT_ROWS
    ]
    pages = [{"label": row["label"], "url": row["url"], "icon": row["icon"]} for row in words["rail"]]
    models = [
        {"label": row["name"], "model": row["name"], "icon": "cpu"}
        for row in menu(page)["models"]
        if row["is_usable"] and not row["is_loaded"] and current_role() >= least_role("status.load")
    ]
    looks = [
        {"label": t(f"theme.{theme or 'auto'}"), "press": f'[data-choose="theme={theme}"]', "icon": icon}
        for theme, icon in THEME_ICONS.items()
    ]
    looks += [
        {"label": row["name"], "press": f'[data-language][lang="{row["code"]}"]', "icon": "globe"}
        for row in words["languages"]
        if not row["is_current"]
    ]
    more = [
        {"label": t("batch.title"), "url": "/notebook/batch", "icon": "list-checks"},
        {"label": t("personas.title"), "url": "/personas", "icon": "user-round"},
        {"label": t("prompts.title"), "url": "/prompts", "icon": "file-text"},
        {"label": t("settings_page.title"), "url": "/settings", "icon": "settings"},
        {"label": t("people.title"), "url": "/people", "icon": "users"},
        {"label": t("jobs.title"), "url": "/jobs", "icon": "list-checks"},
        {"label": t("keys.title"), "press": "#keys", "icon": "info", "key": "?"},
        {"label": t("tour.start"), "press": "[data-tour-start]", "icon": "lightbulb"},
    ]
    new = {"label": t("chat.list.new"), "url": "/", "icon": "square-pen"}
    groups = (("chat", [new, *chat]), ("pages", [*pages, *more]), ("models", models), ("looks", looks))
    return {"groups": groups, "key_rows": KEYS, "tour": TOUR}


@blueprint.get("/palette")
def show_palette() -> Response:
    return kit.render_page("status/_palette.html", {"palette": palette(kit.current_page())})


def _done() -> Response | BaseResponse:
    """The current menu; for a form posted without htmx, redirects back to its page."""
    if kit.wants_fragment():
        return _menu_now()
    return redirect(page_before("/"), 303)


def _menu_now(refusal: RoostError | None = None) -> Response:
    return kit.render_page("status/_menu.html", {"menu": menu(kit.fresh_page(), refusal)})
