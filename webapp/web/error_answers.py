"""A RoostError as a response: JSON for programs, a page for people, in the reader's language.

The JSON is the error object of the URL's dialect (usually OpenAI's), with our hint added to the message, because some
clients show only the message. A page is shown inside the shell, with a link back; the guard's refusals and internal
errors use a small page without a template.
"""

from __future__ import annotations

from flask import Flask, Response, jsonify, make_response, request
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError, as_roost_error, translate_error
from webapp.i18n import sentences, translate
from webapp.web.api.operations import error_body, is_api_path, name_request
from webapp.web.kit.page import at_base, browser_choices, commands, current_locale, render_page, wants_fragment

RETRY_AFTER_S = {429: "1", 503: "2"}
WRONG_ADDRESS = (404, 405, 413)
PAGE = Markup(
    '<!doctype html><html lang="{locale}" data-theme="{theme}"><head><meta charset="utf-8">'
    "<title>{title} · Roost</title>"
    '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    '<link rel="stylesheet" href="{style}"></head><body class="notice"><main class="{kind}">{body}</main></body></html>'
)
NOTICE = Markup("<h1>{title}</h1><p>{message}</p><p>{hint}</p>")
STYLE_PATH = "/login/style.css"


def answer_error(error: RoostError, status: int | None = None) -> Response:
    """The response to a request that failed with ``error``; ``status`` if it differs from the error's own."""
    status = status or error.status
    message, hint = translate_error(error, current_locale())
    if wants_json(status):
        response = jsonify(error_body(request.path, error, sentences(message, hint), status))
        response.status_code = status
    else:
        response = notice_page(translate("page.error", current_locale()), message, hint, status)
    response.headers["Cache-Control"] = "no-store"
    if is_api_path(request.path):
        name_request(response)
    if status in RETRY_AFTER_S:
        response.headers["Retry-After"] = str(error.params.get("retry_after_s", RETRY_AFTER_S[status]))
    return response


def wants_json(status: int = 0) -> bool:
    """True for API paths, for JSON bodies, and for clients that request JSON but not HTML. For a wrong URL
    (``status``), also for programs that accept anything (curl, and every HTTP library)."""
    if is_api_path(request.path) or request.is_json:
        return True
    accept = request.accept_mimetypes
    if status in WRONG_ADDRESS and not is_browser():
        return True
    return "application/json" in accept.values() and not accept.accept_html


def takes_anything() -> bool:
    """A program that names no type; curl and most HTTP libraries send ``*/*``."""
    return "*/*" in request.accept_mimetypes.values() and not is_browser()


def is_browser() -> bool:
    """A browser requests HTML for pages, and sends its location with requests of a page's script."""
    asks_html = "text/html" in request.accept_mimetypes.values()
    return asks_html or wants_fragment() or "Sec-Fetch-Mode" in request.headers


def notice_page(title: str, message: str, hint: str, status: int) -> Response:
    return plain_page(title, NOTICE.format(title=title, message=message, hint=commands(hint)), status)


def plain_page(title: str, body: str, status: int, kind: str = "") -> Response:
    """A page without template and static files, for people who may not see those."""
    return make_response(
        PAGE.format(
            locale=current_locale(),
            theme=browser_choices()["theme"],
            title=title,
            style=at_base(STYLE_PATH),
            kind=kind,
            body=body,
        ),
        status,
    )


MISSING = (404, 405)


def install(app: Flask) -> None:
    app.register_error_handler(RoostError, answer)
    app.register_error_handler(HTTPException, answer_http)
    app.register_error_handler(500, answer_unexpected)


def answer(error: RoostError) -> Response:
    title = "page.not_found" if error.status in MISSING else "page.error"
    return _page(title, error, error.status)


def answer_http(exc: HTTPException) -> BaseResponse:
    """Flask's own errors: an unknown URL, a body that is too large."""
    status = exc.code or 500
    if status < 400:
        return exc.get_response()
    if status in MISSING:
        code = "unknown_url" if status == 404 else "wrong_method"
        is_fragment = wants_fragment()  # a part of a page: the reader can only reload it
        words = RoostError(code, method=request.method, path=request.path[:200])
        response = _page("page.not_found", RoostError("web_error", reason=exc.name) if is_fragment else words, status)
    elif status == 413:
        limit = request.max_content_length or 0
        response = _page(
            "page.error", RoostError("too_large", found=request.content_length or "?", limit=limit), status
        )
    else:
        response = _page("page.error", RoostError("web_error", reason=exc.name), status)
    allowed = getattr(exc, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(allowed)
    return response


def answer_unexpected(exc: Exception) -> Response:
    """An internal error: Flask logs it with its traceback; it is shown like any other error."""
    original = getattr(exc, "original_exception", None) or exc
    return answer_error(as_roost_error(original))


def _page(title: str, error: RoostError, status: int) -> Response:
    if not is_for_a_person(status):
        return answer_error(error, status)
    locale = current_locale()
    message, hint = translate_error(error, locale)
    if error.code in ("web_error", "unknown_url", "wrong_method") and status in MISSING:
        message, hint = "", translate("page.not_found_hint", locale)
    words = {"title": translate(title, locale), "message": message, "hint": commands(hint), "code": error.code}
    return render_page("error.html", words, status=status)


def is_for_a_person(status: int) -> bool:
    """False for programs, parts of pages, and errors that the shell might cause again."""
    is_part = wants_fragment() or request.path.startswith(("/static/", "/ws/"))
    return status < 500 and not wants_json(status) and not is_part
