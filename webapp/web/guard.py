"""Who may ask: one check before every request, WebSocket handshakes and static files included; no path is exempt.

    Host       only names this server answers to (a page that rebinds its DNS name has its own Host)
    rate       so many requests a second from one address
    Origin     exactly our own on unsafe methods and sockets; Sec-Fetch-Site where the browser sends it
    token      when the server is shared or one is set: cookie, Bearer, x-api-key, or ``?token=`` once

Sec-Fetch alone would not do: Chromium sends none with WebSocket handshakes and none to plain-http LAN names. There
are no CORS headers, but for pages that ``cors_origins`` lists: they may call the APIs (:mod:`webapp.web.cors`), without
the cookie. GETs must change nothing: a cross-site GET to a LAN name carries neither Origin nor Sec-Fetch.
"""

from __future__ import annotations

import hmac
import re
import secrets
import socket
from ipaddress import ip_address
from typing import Any

from flask import Flask, Response, request

from webapp.errors import NotAllowed, RoostError, TokenRequired, TooLarge, TooManyRequests
from webapp.settings import Settings
from webapp.web import login
from webapp.web.api.operations import is_api_path
from webapp.web.cors import Cors
from webapp.web.error_answers import answer_error, wants_json
from webapp.web.rate_limit import RateLimit
from webapp.web.security_headers import add_security_headers
from webapp.web.socket.channel import REFUSAL_KEY

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HOST_PATTERN = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FORWARDED = {"x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip"}
"""Headers of a proxy that asks for somebody else."""
TOKEN_BYTES = 24

UNKNOWN_HOST = "this address is not one Roost answers to"
OTHER_SITE = "the request came from another site's page"
NO_ORIGIN = "a page's socket must say where it comes from"


class Guard:
    """Installs itself on ``app`` (``app.extensions["guard"]``). ``token`` is "" when none is asked for."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self.is_shared = settings.is_shared
        self.token = settings.token or (secrets.token_urlsafe(TOKEN_BYTES) if self.is_shared else "")
        self.hosts = known_hosts(settings)
        self.named_hosts = {name.lower() for name in settings.allow_hosts}
        self._cors = Cors(settings.cors_origins)
        self._rate = RateLimit(settings.requests_per_s, settings.request_burst)
        self._failures = RateLimit(0.1, 10)
        app.extensions["guard"] = self
        app.before_request(self.check)
        app.after_request(self._add_headers)

    def check(self) -> Response | None:
        """The refusal, or None when the request may go on."""
        refused: RoostError | None = request.environ.get(REFUSAL_KEY)  # its body was not read
        return self._check() or (answer_error(refused) if refused else None)

    def _check(self) -> Response | None:
        if self._host() is None:
            return answer_error(NotAllowed(reason=UNKNOWN_HOST), 400)
        if not self._rate.allows(client_address()):
            return answer_error(TooManyRequests())
        reason = self._foreign()
        if reason:
            return answer_error(NotAllowed(reason=reason))
        if self._cors.is_preflight():
            return self._cors.answer_preflight()
        if login.is_login_style():
            return login.login_style()
        return self._check_token() if self.token else None

    def body_limit(self, environ: dict[str, Any]) -> int:
        """Most bytes of the body of a request of which only the headers have come. Raises the RoostError that
        :meth:`check` would answer, or TooLarge; counts nothing."""
        with self._app.request_context(environ):
            self._refuse_early()
            limit = self._most_bytes()
            if (request.content_length or 0) > limit:
                raise TooLarge(found=request.content_length, limit=limit)
            return limit

    def _refuse_early(self) -> None:
        if self._host() is None:
            raise NotAllowed(reason=UNKNOWN_HOST)
        reason = self._foreign()
        if reason:
            raise NotAllowed(reason=reason)
        if self.token and request.path != login.LOGIN_PATH and not self._has_token():
            raise TokenRequired()

    def _most_bytes(self) -> int:
        if request.path == login.LOGIN_PATH:
            return login.MAX_FORM_BYTES
        return self._settings.api_max_body_bytes if is_api_path(request.path) else self._settings.max_body_bytes

    def _host(self) -> str | None:
        """The Host header when it is one of ours.

        Not Flask's TRUSTED_HOSTS: werkzeug 3.1.9 can match no IPv6 literal.
        """
        header = request.environ.get("HTTP_HOST", "").lower()
        match = HOST_PATTERN.fullmatch(header)
        if match is None:
            return None
        name = match[1].rstrip(".")
        # Rebinding needs a name; on a shared server any address that led here is one of this machine's.
        is_ours = name in self.hosts or (self.is_shared and is_address(name))
        return header if is_ours else None

    def _foreign(self) -> str:
        """Why the sender is another site's page, or "". A page cannot change these headers."""
        origin = request.headers.get("Origin")
        if self._cors.is_listed_page():
            return ""
        is_checked = is_handshake() or request.method not in SAFE_METHODS
        if origin is not None and is_checked and origin not in self._own_origins():
            return OTHER_SITE
        site = request.headers.get("Sec-Fetch-Site")
        if site not in (None, "same-origin", "none") and not is_followed_link():
            return OTHER_SITE
        # Every browser sends an Origin with a handshake; a program shows its token instead.
        if is_handshake() and origin is None and not header_token():
            return NO_ORIGIN
        return ""

    def _own_origins(self) -> tuple[str, ...]:
        own = f"{request.scheme}://{request.host}"
        # A proxy named by --allow-host may speak https to the browser and http to us.
        name = request.host.partition(":")[0].lower()
        return (own, f"https://{request.host}") if name in self.named_hosts else (own,)

    def _check_token(self) -> Response | None:
        if request.path == login.LOGIN_PATH:
            return self._login()
        if self._has_token():
            return None
        if request.method == "GET" and not is_handshake() and request.args.get("token"):
            return self._try_token(request.args["token"], login.page_without_token())
        if self._given_token() and not self._failures.allows(client_address()):
            return answer_error(TooManyRequests())
        return self._ask_for_token()

    def _given_token(self) -> str:
        cookie = "" if self._cors.is_listed_page() else request.cookies.get(self.cookie_name, "")
        return header_token() or cookie

    def _has_token(self) -> bool:
        # a client may send both, one of them out of its environment (ANTHROPIC_AUTH_TOKEN)
        given = (self._given_token(), request.headers.get("x-api-key", "").strip())
        return any(self._is_right(token) for token in given)

    def _login(self) -> Response:
        if request.method != "POST":
            return login.login_form(status=200)
        return self._try_token(login.submitted_token(), login.wanted_page())

    def _try_token(self, token: str, page: str) -> Response:
        if not self._failures.allows(client_address()):
            return answer_error(TooManyRequests())
        if self._is_right(token):
            return login.welcome(self.cookie_name, token, page)
        return login.login_form(wrong=True)

    def _ask_for_token(self) -> Response:
        if wants_json() or is_handshake() or request.method not in SAFE_METHODS:
            response = answer_error(TokenRequired())
        else:
            response = login.login_form()
        if "HX-Request" in request.headers:
            response.headers["HX-Refresh"] = "true"  # the whole page, which will be the form
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _is_right(self, token: str) -> bool:
        return bool(token) and hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode("utf-8"))

    @property
    def cookie_name(self) -> str:
        """With the port in it: cookies ignore ports, so two servers on one machine would overwrite each other's."""
        return f"roost_token_{request.environ.get('SERVER_PORT', '')}"

    def _add_headers(self, response: Response) -> Response:
        return add_security_headers(self._cors.add_headers(response), self._host())


def client_address() -> str:
    return request.remote_addr or ""


def is_handshake() -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def is_followed_link() -> bool:
    """A link on another site that a person clicked: a whole page by GET, not a frame, image or script."""
    is_document = request.headers.get("Sec-Fetch-Dest") == "document"
    return request.method == "GET" and is_document and not is_handshake()


def is_from_here() -> bool:
    """True when whoever asks sits at this machine, by address and by the name that was asked for: behind a proxy or a
    tunnel every address is this machine's."""
    host = request.host.rpartition(":")[0] if request.host.count(":") == 1 else request.host
    name = host.partition("]")[0] + "]" if host.startswith("[") else host
    address = client_address().removeprefix("::ffff:")
    is_near = address.startswith("127.") or address == "::1"
    return is_near and name.lower() in LOOPBACK_NAMES and not FORWARDED & {name.lower() for name, _ in request.headers}


def header_token() -> str:
    """What a program sends: ``Authorization: Bearer`` (OpenAI) or ``x-api-key`` (Anthropic)."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key", "").strip()


def known_hosts(settings: Settings) -> set[str]:
    """Names (IPv6 in brackets, lower case, no port) this server answers to."""
    names = [*LOOPBACK_NAMES, *settings.allow_hosts]
    if settings.is_shared:
        machine = socket.gethostname()
        names += [settings.host, machine, f"{machine.partition('.')[0]}.local"]
    return {name.lower() for name in names}


def is_address(name: str) -> bool:
    try:
        return bool(ip_address(name.strip("[]")))
    except ValueError:
        return False
