"""A RoostError as an answer: JSON for programs, a small page for people, in the reader's language.

The JSON is the error object of the dialect the address is spoken to in (OpenAI's, mostly), with our hint added to the
message, so that a client that shows only the message still shows the way out.
"""

from __future__ import annotations

from flask import Response, jsonify, make_response, request
from markupsafe import Markup

from webapp.errors import RoostError, sentences
from webapp.i18n import translate, translate_error
from webapp.web.api.operations import error_body, is_api_path
from webapp.web.fragments import commands, current_locale

RETRY_AFTER_S = {429: "1", 503: "2"}
PAGE = Markup(
    '<!doctype html><html lang="{locale}"><head><meta charset="utf-8"><title>{title} · Roost</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="stylesheet" href="{style}"></head><body class="notice"><main>{body}</main></body></html>'
)
NOTICE = Markup("<h1>{title}</h1><p>{message}</p><p>{hint}</p>")
STYLE_PATH = "/login/style.css"


def answer_error(error: RoostError, status: int | None = None) -> Response:
    """The answer to a request that failed with ``error``; ``status`` where it differs from the error's own."""
    status = status or error.status
    message, hint = translate_error(error, current_locale())
    if wants_json():
        response = jsonify(error_body(request.path, error, sentences(message, hint), status))
        response.status_code = status
    else:
        response = notice_page(translate("page.error", current_locale()), message, hint, status)
    response.headers["Cache-Control"] = "no-store"
    if status in RETRY_AFTER_S:
        response.headers["Retry-After"] = RETRY_AFTER_S[status]
    return response


def wants_json() -> bool:
    """True for the APIs' paths, for a body of JSON, and for a client that asks for JSON and not for HTML."""
    if is_api_path(request.path) or request.is_json:
        return True
    accept = request.accept_mimetypes
    return "application/json" in accept.values() and not accept.accept_html


def notice_page(title: str, message: str, hint: str, status: int) -> Response:
    return plain_page(title, NOTICE.format(title=title, message=message, hint=commands(hint)), status)


def plain_page(title: str, body: str, status: int) -> Response:
    """A page that needs no template and no static file, so it can be shown to someone who may not see those."""
    return make_response(PAGE.format(locale=current_locale(), title=title, style=STYLE_PATH, body=body), status)
