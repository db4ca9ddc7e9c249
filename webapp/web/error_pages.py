"""Errors as pages inside the shell, with a way back; the guard's refusals stay outside it (:mod:`.error_answers`)."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, Response, request
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError, TooLarge, WebError
from webapp.i18n import translate, translate_error
from webapp.web.error_answers import answer_error, wants_json
from webapp.web.fragments import commands, current_locale, render_page, wants_fragment

MISSING = (404, 405)


@dataclass(frozen=True)
class ErrorPage:
    """``error.html``."""

    title: str
    message: str
    hint: Markup
    code: str


def install(app: Flask) -> None:
    app.register_error_handler(RoostError, answer)
    app.register_error_handler(HTTPException, answer_http)


def answer(error: RoostError) -> Response:
    title = "page.not_found" if error.status in MISSING else "page.error"
    return _page(title, error, error.status)


def answer_http(exc: HTTPException) -> BaseResponse:
    """What Flask itself refuses: an address nobody has, a body too large."""
    status = exc.code or 500
    if status < 400:
        return exc.get_response()
    if status in MISSING:
        response = _page("page.not_found", WebError(reason=exc.name), status)
    elif status == 413:
        limit = request.max_content_length or 0
        response = _page("page.error", TooLarge(found=request.content_length or "?", limit=limit), status)
    else:
        response = _page("page.error", WebError(reason=exc.name), status)
    allowed = getattr(exc, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(allowed)
    return response


def _page(title: str, error: RoostError, status: int) -> Response:
    if not is_for_a_person(status):
        return answer_error(error, status)
    locale = current_locale()
    message, hint = translate_error(error, locale)
    if type(error) is WebError and status in MISSING:
        message, hint = "", translate("page.not_found_hint", locale)
    context = ErrorPage(translate(title, locale), message, commands(hint), error.code)
    return render_page("error.html", context, status=status)


def is_for_a_person(status: int) -> bool:
    """False for programs, parts of pages, and faults that the shell might have again."""
    is_part = wants_fragment() or request.path.startswith(("/static/", "/ws/"))
    return status < 500 and not wants_json() and not is_part
