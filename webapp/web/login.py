"""Pages for devices that are not logged in: the login for the token or a password, with the cookie of the resulting
session; and ``/trust``.

``/trust`` says how to make a device trust the certificate created here, with the authority as a download. It is also
served over plain http, because a device that does not trust it yet needs that, and to strangers: nothing on it is
secret. Roost prints its fingerprint at start, for comparison.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode, urlsplit

from flask import Blueprint, Response, abort, current_app, make_response, redirect, request, url_for
from markupsafe import Markup
from msgspec import Struct, field

from webapp.errors import RoostError
from webapp.i18n import translate
from webapp.services.access import LINK_PATH
from webapp.services.certificates import Certificates
from webapp.storage.people import NAME_CHARS, Person
from webapp.web.error_answers import plain_page
from webapp.web.kit.page import at_base, commands, current_locale, translator

LOGIN_PATH = "/login"
OWNER_PATH = f"/{LINK_PATH}"
"""The path of the owner's links, with ``?secret=``."""
MIN_PASSWORD_CHARS, PASSWORD_CHARS = 8, 200
NO_HASH = "scrypt:32768:8:1$" + "x" * 16 + "$" + "0" * 128
"""A hash that matches no password."""
_hashing = threading.Lock()
COOKIE_SECONDS = 365 * 86400
"""The session itself ends earlier if it is not used (:data:`webapp.storage.credentials.UNUSED_S`)."""
MAX_FORM_BYTES = 4096
FORM = Markup(
    '<form method="post" action="{action}">{title}{hidden}{fields}<p class="wrong" role="alert">{each.wrong}</p>'
    "<button>{each.button}</button></form>"
)
HIDDEN = Markup('<input type="hidden" name="{name}" value="{value}">')
FIELD = Markup(
    '<label for="{each.name}">{each.label}</label><input id="{each.name}" name="{each.name}" type="{each.type}"'
    ' value="{each.value}" autocomplete="{each.autocomplete}" maxlength="{each.most}"{words}>'
    '<p class="help">{each.help}</p>'
)
STYLE = """
:root { color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif; }
:root[data-theme=light] { color-scheme: light; }
:root[data-theme=dark] { color-scheme: dark; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: light-dark(#FBFAF7, #15171A);
  color: light-dark(#1F1D1A, #E9E7E2); }
main { width: min(24rem, 88vw); }
h1 { font-size: 1.4rem; line-height: 1.3; margin: 0 0 .5rem; }
.help { margin: 0; font-size: .9rem; opacity: .8; }
label { display: block; font-weight: 600; margin-top: 1rem; }
input { box-sizing: border-box; width: 100%; font: inherit; padding: .6rem .7rem; margin: .3rem 0; border-radius: .5rem;
  border: 1px solid GrayText; }
button { font: inherit; font-weight: 600; padding: .6rem 1.2rem; border: 0; border-radius: .5rem; cursor: pointer;
  background: light-dark(#0F766E, #2DD4BF); color: light-dark(#fff, #15171A); }
button:focus-visible, input:focus-visible { outline: 3px solid light-dark(#0F766E, #2DD4BF); outline-offset: 1px; }
h2 { font-size: 1.1rem; line-height: 1.3; margin: 1.5rem 0 .3rem; }
main.wide { width: min(40rem, 88vw); padding: 2rem 0; }
ol { padding-left: 1.4rem; margin: .3rem 0; }
code { font-size: .9em; overflow-wrap: anywhere; }
.button { display: inline-block; font-weight: 600; padding: .6rem 1.2rem; border-radius: .5rem; text-decoration: none;
  background: light-dark(#0F766E, #2DD4BF); color: light-dark(#fff, #15171A); margin: .3rem .6rem .3rem 0; }
.wrong { color: light-dark(#b3261e, #ff8f80); margin: .2rem 0 .8rem; min-height: 1.6em; }
"""


class DoorField(Struct, frozen=True):
    """An input on a page for people who are not logged in. ``type`` and ``autocomplete`` as in HTML."""

    name: str
    label: str
    type: str = "text"
    autocomplete: str = "off"
    value: str = ""
    help: str = ""
    most: int = PASSWORD_CHARS
    is_needed: bool = True

    def html(self, is_first: bool) -> Markup:
        words = (" required" if self.is_needed else "") + (" autofocus" if is_first else "")
        return FIELD.format(each=self, words=Markup(words))


class DoorForm(Struct, frozen=True):
    """``wrong``: the error of the last input; ``is_first``: the page begins with it."""

    action: str
    button: str
    fields: tuple[DoorField, ...] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    wrong: str = ""
    is_first: bool = True

    @property
    def html(self) -> Markup:
        title = Markup("<h2>{}</h2>").format(self.title) if self.title else ""
        hidden = Markup("").join(HIDDEN.format(name=name, value=value) for name, value in self.hidden.items())
        fields = Markup("").join(row.html(self.is_first and not place) for place, row in enumerate(self.fields))
        return FORM.format(each=self, action=at_base(self.action), title=title, hidden=hidden, fields=fields)


def door(title: str, intro: str, forms: Sequence[DoorForm] = (), status: int = 200) -> Response:
    """A page for people who are not logged in and cannot load our static files."""
    body = Markup("<h1>{}</h1><p>{}</p>").format(title, intro) + Markup("").join(form.html for form in forms)
    response = plain_page(title, body, status)
    response.headers["Cache-Control"] = "no-store"
    return response


def login_form(has_token: bool, has_accounts: bool, status: int = 401, wrong: str = "", name: str = "") -> Response:
    """Forms for an account's name and password, and for the token, as far as they exist; they lead back to the
    requested page. ``wrong`` is "token", "password" or ""."""
    t, hidden = translator(current_locale()), {"next": wanted_page()}
    forms: list[DoorForm] = []
    if has_accounts:
        fields = (
            DoorField("name", t("login.name"), autocomplete="username", value=name, most=NAME_CHARS),
            DoorField("password", t("login.password"), "password", "current-password"),
        )
        said = t("login.wrong_password") if wrong == "password" else ""
        title = t("login.with_account") if has_token else ""
        forms.append(DoorForm(LOGIN_PATH, t("login.sign_in"), fields, hidden, title, said))
    if has_token:
        token = DoorField("token", t("login.token"), "password", "off" if has_accounts else "current-password")
        said = t("login.wrong") if wrong == "token" else ""
        title = t("login.with_token") if has_accounts else ""
        forms.append(DoorForm(LOGIN_PATH, t("login.submit"), (token,), hidden, title, said, not has_accounts))
    intro = "both" if len(forms) == 2 else "account" if has_accounts else "token" if has_token else "link"
    return door(t(f"login.title.{intro}"), t(f"login.intro.{intro}"), forms, status)


def login_style() -> Response:
    return make_response(STYLE, {"Content-Type": "text/css; charset=utf-8", "Cache-Control": "max-age=3600"})


def submitted(name: str) -> str:
    """A form field; Flask refuses a body over a few KB before it is read."""
    request.max_content_length = MAX_FORM_BYTES
    return request.form.get(name, "")


def password_hash(password: str) -> str:
    """scrypt by werkzeug, which Flask includes: 32 MiB and about 50 ms per try. Raises ``password_too_short``."""
    from werkzeug.security import generate_password_hash

    if not MIN_PASSWORD_CHARS <= len(password) <= PASSWORD_CHARS:
        raise RoostError("password_too_short", least=MIN_PASSWORD_CHARS, most=PASSWORD_CHARS)
    with _hashing:
        return generate_password_hash(password)


def is_password(person: Person | None, password: str) -> bool:
    """Takes as long for an unknown person. One at a time, because many parallel tries would use too much memory."""
    from werkzeug.security import check_password_hash

    known = person.password_hash if person is not None else ""
    with _hashing:
        is_right = check_password_hash(known or NO_HASH, password[:PASSWORD_CHARS])
    return bool(known) and is_right


def wanted_page() -> str:
    """The page after the login: the form's ``next`` field, otherwise the requested page."""
    if request.path == LOGIN_PATH:
        wanted = request.form.get("next", "/") if request.method == "POST" else "/"
        return local_path(wanted)
    return page_without_token()


def page_without_token() -> str:
    kept = [(name, value) for name, value in request.args.items(multi=True) if name != "token"]
    return local_path(request.path + (f"?{urlencode(kept)}" if kept else ""))


def local_path(path: str) -> str:
    r"""``path`` if it stays on this site, else ``/``: browsers interpret ``//host`` and ``/\host`` as another one."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else "/"


def page_before(instead: str) -> str:
    """The path of the page with the posted form; ``instead`` if it was not one of ours."""
    try:
        before = urlsplit(request.headers.get("Referer", ""))
    except ValueError:  # "http://[" and the like
        return instead
    return local_path(before.path) if before.netloc == request.host else instead


def welcome(cookie: str, session_id: str, page: str) -> Response:
    """Redirects to ``page`` with the cookie. Lax, so that links from elsewhere work; the Origin check does the rest."""
    response = to_page(page)
    response.set_cookie(
        cookie, session_id, httponly=True, samesite="Lax", secure=request.is_secure, max_age=COOKIE_SECONDS
    )
    return response


def goodbye(cookie: str, page: str) -> Response:
    """Redirects to ``page`` and deletes the cookie."""
    response = to_page(page)
    response.delete_cookie(cookie, httponly=True, samesite="Lax", secure=request.is_secure)
    return response


def to_page(page: str) -> Response:
    response = make_response(redirect(at_base(page), 303))
    response.headers["Cache-Control"] = "no-store"
    return response


# trusting our certificate

trust = Blueprint("trust", __name__, url_prefix="/trust")
SYSTEMS = {"ios": 4, "android": 3, "windows": 2, "macos": 2, "linux": 3, "firefox": 2, "programs": 2}
"""The supported systems, and the number of steps for each (``trust.<system>.<step>`` in the catalogues)."""
FILE_NAMES = {"der": "roost.crt", "pem": "roost.pem"}
"""Phones and Windows open the first; Linux and most programs use the second."""


@trust.get("")
def index() -> Response:
    locale, certificates = current_locale(), the_certificates()

    def t(key: str, **params: str) -> str:
        return translate(f"trust.{key}", locale, **params)

    title = t("title")
    body = [Markup("<h1>{}</h1><p>{}</p>").format(title, t("intro"))]
    for form, name in FILE_NAMES.items():
        url = at_base(url_for("trust.authority", form=form))
        body.append(Markup('<a class="button" href="{}" download="{}">{}</a>').format(url, name, t(f"file.{form}")))
    body.append(Markup("<p>{}<br><code>{}</code></p>").format(t("fingerprint"), certificates.fingerprint()))
    for system, count in SYSTEMS.items():
        steps = [Markup("<li>{}</li>").format(commands(t(f"{system}.{step}"))) for step in range(1, count + 1)]
        body.append(Markup("<h2>{}</h2><ol>{}</ol>").format(t(f"{system}.name"), Markup("").join(steps)))
    body.append(
        Markup('<p><a class="button" href="https://{}{}">{}</a></p>').format(request.host, at_base("/"), t("go"))
    )
    return plain_page(title, Markup("").join(body), 200, "wide")


@trust.get("/authority.<form>")
def authority(form: str) -> Response:
    certificates = the_certificates()
    if form not in FILE_NAMES:
        abort(404)
    assert certificates.authority_path is not None
    content = certificates.authority_der() if form == "der" else certificates.authority_path.read_bytes()
    kind = "application/x-x509-ca-cert" if form == "der" else "application/x-pem-file"
    named = f'attachment; filename="{FILE_NAMES[form]}"'
    return make_response(content, {"Content-Type": kind, "Content-Disposition": named, "Cache-Control": "no-store"})


def the_certificates() -> Certificates:
    """Raises ``no_own_authority`` if the server does not create certificates itself."""
    found: Certificates | None = current_app.extensions.get("certificates")
    if found is None or found.authority_path is None:
        raise RoostError("no_own_authority")
    return found
