"""What ``base.html`` needs on every page; the rail is :data:`RAIL`."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from flask import current_app, request

from webapp.i18n import LOCALES
from webapp.manager.manager import ModelManager
from webapp.web.status.contexts import Language, RailItem, Shell
from webapp.web.status.strip import strip_context

# key of the word, icon, endpoint of the page. A page that is not served (`--api-only`) is left out.
RAIL = (
    ("nav.chat", "message-square", "chat.index"),
    ("nav.presets", "sliders-horizontal", "presets.index"),
    ("nav.models", "boxes", "models.index"),
    ("nav.states", "layers", "states.index"),
    ("nav.tools", "wrench", "tools.index"),
    ("api.nav", "braces", "docs.index"),
)
HTML_LANGS = {"en": "en", "zh": "zh-Hans"}
THEMES = ("light", "dark")
THEME_COOKIE = "roost_theme"
PANEL_COOKIE = "roost_panel"


def shell_context(manager: ModelManager, t: Callable[..., str], locale: str) -> Shell:
    theme = request.cookies.get(THEME_COOKIE, "")
    return Shell(
        html_lang=HTML_LANGS.get(locale, locale),
        theme=theme if theme in THEMES else "",
        is_panel_open=request.cookies.get(PANEL_COOKIE) != "closed",
        rail=rail(t),
        languages=tuple(Language(code, name, _url_in(code), code == locale) for code, name in LOCALES.items()),
        strip=strip_context(manager, t),
    )


def rail(t: Callable[..., str]) -> tuple[RailItem, ...]:
    views = current_app.view_functions
    url_for = current_app.url_for
    return tuple(
        RailItem(t(key), icon, url_for(endpoint), endpoint.partition(".")[0] in request.blueprints)
        for key, icon, endpoint in RAIL
        if endpoint in views
    )


def _url_in(locale: str) -> str:
    """This page in another language; only for pages, which GET can ask for again."""
    path = request.path if request.method == "GET" else "/"
    kept = [(name, value) for name, value in request.args.items(multi=True) if name in ("at", "q")]
    return f"{path}?{urlencode([*kept, ('lang', locale)])}"
