"""Page or fragment, in one place; and the words a template may use.

A context is one dataclass (or mapping) that feeds both: its fields are the template's variables, the whole is
``context``. :func:`install` gives every template ``t(key, **params)``, ``locale`` and ``locales``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from flask import Flask, Response, current_app, g, has_request_context, make_response, render_template, request
from jinja2.ext import Extension
from markupsafe import Markup, escape

from webapp.errors import sentences
from webapp.i18n import DEFAULT_LOCALE, LOCALES, choose_locale, translate
from webapp.i18n.locale_choice import LOCALE_COOKIE
from webapp.settings import Settings

COOKIE_SECONDS = 365 * 86400
INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
SURROGATES = re.compile("[\ud800-\udfff]")


class WithoutIndent(Extension):
    """Templates are indented for their readers; the spaces need not travel (a tenth of a page)."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return INDENT.sub("", source)


def install(app: Flask, settings: Settings) -> None:
    """Makes translations available to templates and remembers a language chosen by ``?lang=``."""
    app.extensions["settings"] = settings
    app.context_processor(template_words)
    app.jinja_env.filters["commands"] = commands
    app.jinja_env.filters["with_way_out"] = sentences
    app.jinja_env.add_extension(WithoutIndent)
    app.after_request(_remember_locale)


def commands(text: str) -> Markup:
    """An error's words as HTML: what stands between backticks, a command or a file, as code; all of it escaped."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if is_code else escape(piece)
        for piece, is_code in zip(pieces, itertools.cycle((False, True)), strict=False)
    )


def template_words() -> dict[str, Any]:
    """``t``, ``locale`` (the reader's), ``locales`` (code -> own name)."""
    locale = current_locale()
    return {"t": translator(locale), "locale": locale, "locales": LOCALES}


def translator(locale: str) -> Any:
    def t(key: str, **params: Any) -> str:
        return translate(key, locale, **params)

    return t


def current_locale() -> str:
    """The language of whoever asked; outside a request, of the setting (else English)."""
    settings = current_app.extensions.get("settings")
    fixed = settings.language if settings else "auto"
    if not has_request_context():
        return fixed if fixed in LOCALES else DEFAULT_LOCALE
    if "locale" not in g:
        g.locale = choose_locale(
            request.args.get("lang"),
            request.cookies.get(LOCALE_COOKIE),
            request.headers.get("Accept-Language"),
            fixed,
        )
    return str(g.locale)


def _remember_locale(response: Response) -> Response:
    chosen = request.args.get("lang")
    if chosen in LOCALES:
        response.set_cookie(LOCALE_COOKIE, str(chosen), max_age=COOKIE_SECONDS, samesite="Lax", httponly=True)
    return response


def wants_fragment() -> bool:
    """True when htmx asks for a part of the page; not for a boosted link or a restored history entry."""
    headers = request.headers
    whole = "HX-Boosted" in headers or "HX-History-Restore-Request" in headers
    return headers.get("HX-Request") == "true" and not whole


def render_fragment(name: str, context: Any = None, locale: str | None = None) -> str:
    """The HTML of one template; ``locale`` for a thread without a request, which may render for a known reader.

    Needs an application context, as all of Flask's rendering does.
    """
    variables = template_variables(context)
    if locale is not None:
        variables |= {"t": translator(locale), "locale": locale}
    # A name inside someone's file may hold half a character pair, which no answer can be encoded with.
    return SURROGATES.sub("\ufffd", render_template(name, **variables))


def render_page(page: str, context: Any = None, fragment: str | None = None, status: int = 200) -> Response:
    """The whole ``page``, or only ``fragment`` (if named) when htmx asked for a part; not to be cached as the other."""
    name = fragment if fragment is not None and wants_fragment() else page
    response = make_response(render_fragment(name, context), status)
    response.vary.update(["HX-Request", "Accept-Language", "Cookie"])
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def template_variables(context: Any) -> dict[str, Any]:
    """The fields of a context, shallow (nested dataclasses stay objects), and the context itself."""
    if context is None:
        return {}
    if is_dataclass(context) and not isinstance(context, type):
        return {"context": context, **{row.name: getattr(context, row.name) for row in fields(context)}}
    if isinstance(context, Mapping):
        return {"context": context, **context}
    raise TypeError(f"a context is a dataclass or a mapping, not {type(context).__name__}")
