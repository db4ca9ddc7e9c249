"""The page that asks for the token, and the cookie of the session that follows."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Response, make_response, redirect, request
from markupsafe import Markup

from webapp.i18n import translate
from webapp.services.access import LINK_PATH
from webapp.web.error_answers import plain_page
from webapp.web.kit.page import at_base, current_locale

LOGIN_PATH = "/login"
OWNER_PATH = f"/{LINK_PATH}"
"""Of the owner's links, with ``?secret=``."""
COOKIE_SECONDS = 365 * 86400
"""The session itself ends earlier, when it is not used (:data:`webapp.storage.sessions.UNUSED_S`)."""
MAX_FORM_BYTES = 4096
FORM = Markup(
    '<h1>{title}</h1><p>{intro}</p><form method="post" action="{action}">'
    '<input type="hidden" name="next" value="{next}">'
    '<label for="token">{label}</label><input id="token" name="token" type="password" autocomplete="current-password"'
    ' required autofocus><p class="wrong" role="alert">{wrong}</p><button>{submit}</button></form>'
)
STYLE = """
:root { color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas; color: CanvasText; }
main { width: min(24rem, 88vw); }
h1 { font-size: 1.4rem; line-height: 1.3; margin: 0 0 .5rem; }
label { display: block; font-weight: 600; margin-top: 1rem; }
input { box-sizing: border-box; width: 100%; font: inherit; padding: .6rem .7rem; margin: .3rem 0; border-radius: .5rem;
  border: 1px solid GrayText; }
button { font: inherit; font-weight: 600; padding: .6rem 1.2rem; border: 0; border-radius: .5rem; background: #2f5fd0;
  color: #fff; cursor: pointer; }
button:focus-visible, input:focus-visible { outline: 3px solid #7aa2ff; outline-offset: 1px; }
h2 { font-size: 1.1rem; line-height: 1.3; margin: 1.5rem 0 .3rem; }
main.wide { width: min(40rem, 88vw); padding: 2rem 0; }
ol { padding-left: 1.4rem; margin: .3rem 0; }
code { font-size: .9em; overflow-wrap: anywhere; }
.button { display: inline-block; font-weight: 600; padding: .6rem 1.2rem; border-radius: .5rem; background: #2f5fd0;
  color: #fff; text-decoration: none; margin: .3rem .6rem .3rem 0; }
.wrong { color: #c62828; margin: .2rem 0 .8rem; min-height: 1.6em; }
@media (prefers-color-scheme: dark) { .wrong { color: #ff8a80; } }
"""


def login_form(status: int = 401, wrong: bool = False) -> Response:
    """The form; it leads back to the page that was asked for."""
    locale = current_locale()
    words = {key: translate(f"login.{key}", locale) for key in ("title", "intro", "submit", "wrong")}
    words["wrong"] = words["wrong"] if wrong else ""
    body = FORM.format(**words, action=at_base(LOGIN_PATH), label=translate("login.token", locale), next=wanted_page())
    response = plain_page(words["title"], body, status)
    response.headers["Cache-Control"] = "no-store"
    return response


def login_style() -> Response:
    return make_response(STYLE, {"Content-Type": "text/css; charset=utf-8", "Cache-Control": "max-age=3600"})


def submitted_token() -> str:
    """The form's token; a body over a few KB is refused by Flask before it is read."""
    request.max_content_length = MAX_FORM_BYTES
    return request.form.get("token", "").strip()


def wanted_page() -> str:
    """Where to go after the login: the ``next`` field of the form, else the page that was asked for."""
    if request.path == LOGIN_PATH:
        wanted = request.form.get("next", "/") if request.method == "POST" else "/"
        return local_path(wanted)
    return page_without_token()


def page_without_token() -> str:
    kept = [(name, value) for name, value in request.args.items(multi=True) if name != "token"]
    return local_path(request.path + (f"?{urlencode(kept)}" if kept else ""))


def local_path(path: str) -> str:
    r"""``path`` if it stays on this site, else ``/``: browsers read ``//host`` and ``/\host`` as another one."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else "/"


def welcome(cookie: str, session_id: str, page: str) -> Response:
    """To ``page`` with the cookie set. Lax, so that a link from elsewhere works; the Origin check guards the rest."""
    response = to_page(page)
    response.set_cookie(
        cookie, session_id, httponly=True, samesite="Lax", secure=request.is_secure, max_age=COOKIE_SECONDS
    )
    return response


def goodbye(cookie: str, page: str) -> Response:
    """To ``page`` without the cookie."""
    response = to_page(page)
    response.delete_cookie(cookie, httponly=True, samesite="Lax", secure=request.is_secure)
    return response


def to_page(page: str) -> Response:
    response = make_response(redirect(at_base(page), 303))
    response.headers["Cache-Control"] = "no-store"
    return response
