"""The access check before every request, including WebSocket handshakes and static files; no path is exempt.

    rate       limits requests per second and address; not for direct requests from this machine
    Host       only names this server answers to (a page that rebinds its DNS name has its own Host)
    Origin     exactly our own for unsafe methods and sockets; Sec-Fetch-Site if the browser sends it
    role       what the request proves (:mod:`.roles`): a session cookie, the token or the owner's key as Bearer or
               x-api-key; and whether that is enough for the URL

Sec-Fetch headers alone are not enough: Chromium sends none with WebSocket handshakes and none to plain-http LAN names.
There are no CORS headers, except for the pages in ``cors_origins``: they may call the APIs (:class:`.peer.Cors`),
without the cookie. GET must change nothing: a cross-site GET to a LAN name has neither Origin nor Sec-Fetch.
"""

from __future__ import annotations

import hmac
import re
import secrets
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any

from flask import Flask, Request, Response, current_app, g, has_app_context, redirect, request
from msgspec import Struct
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.manager.handles import PERSON
from webapp.services.access import OwnerProof
from webapp.services.certificates import LOCAL_NAMES
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.credentials import TOKEN_PREFIX, ApiToken, ApiTokens, Session, Sessions, digest
from webapp.storage.people import GUEST, NOBODY, SHARED_ID, People, Person, tidy
from webapp.storage.records import OWNER_ID
from webapp.web import login
from webapp.web.api.operations import is_api_path, scope_of
from webapp.web.error_answers import STYLE_PATH, answer_error, wants_json
from webapp.web.kit.page import at_base
from webapp.web.peer import (
    ORIGIN,
    PEER,
    REFUSAL_KEY,
    Cors,
    RateLimit,
    TrustedProxies,
    address_key,
    is_address,
    is_direct,
    is_loopback,
    is_of_own_account,
)
from webapp.web.roles import Role, least_role, role_without_proof

# Nothing from other hosts, no inline script or style, no eval. `ws:` is listed because not every browser includes it in
# 'self'.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self' {sockets}; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "frame-src 'self'; object-src 'none'"
)
FIXED_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it the page's own forms would say "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def add_security_headers(response: Response, host: str | None) -> Response:
    """The headers of every response. A view may set its own first (a user's uploaded file needs a sandbox). ``host`` is
    the checked Host header; None if it was not ours, so that it is not repeated."""
    sockets = f"ws://{host} wss://{host}" if host else ""
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY.format(sockets=sockets))
    for name, value in FIXED_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HOST_PATTERN = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?")
WITHOUT_TLS = ("health", "trust.index", "trust.authority")
"""Routes available over plain http if https is used: nothing secret, and what a device needs before it trusts us."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
TOKEN_BYTES = 24

UNKNOWN_HOST = Text("reason.web.unknown_host")
OTHER_SITE = Text("reason.web.request_from_another_site")
NO_ORIGIN = Text("reason.web.socket_without_origin")


class Step(Enum):
    """What to do with a request."""

    PROCEED = "proceed"
    REFUSE = "refuse"
    PREFLIGHT = "preflight"
    STYLE = "style"
    SECURE = "secure"
    LOGIN = "login"
    TOKEN_LINK = "token link"
    OWNER_LINK = "owner link"


class Decision(Struct, frozen=True):
    """``error`` (sent with ``status`` unless that is 0) belongs to REFUSE. ``is_guess``: the request contained a wrong
    token."""

    step: Step
    role: Role = Role.STRANGER
    session: Session | None = None
    person: Person = NOBODY
    token: ApiToken | None = None
    error: RoostError | None = None
    status: int = 0
    is_guess: bool = False


class Guard:
    """Installs itself on ``app`` (``app.extensions["guard"]``). ``token`` is "" if none is required."""

    def __init__(
        self,
        app: Flask,
        settings: Settings,
        sessions: Sessions,
        proof: OwnerProof,
        people: People,
        tokens: ApiTokens,
    ) -> None:
        self.settings = settings
        self.is_shared = settings.is_shared
        self._has_tls = settings.has_tls
        self.token = settings.token or (secrets.token_urlsafe(TOKEN_BYTES) if self.is_shared else "")
        self.hosts = known_hosts(settings)
        self.named_hosts = {name.lower() for name in settings.allow_hosts}
        self.sessions = sessions
        self.proof = proof
        self.people = people
        self.tokens = tokens
        self.proxies = TrustedProxies(settings.trusted_proxy, settings.base_path)
        self._app = app
        self._cors = Cors(settings.cors_origins, bool(self.token))
        self._rate = RateLimit(settings.requests_per_s, settings.request_burst)
        self._guesses = RateLimit(0.1, 10)
        self._password_tries = RateLimit(1 / 30, 20)
        app.extensions["guard"] = self
        app.wsgi_app = self._past_proxies(app.wsgi_app)  # type: ignore[method-assign]
        app.before_request(self.check)
        app.after_request(self._add_headers)

    def _past_proxies(self, wsgi_app: Callable[..., Any]) -> Callable[..., Any]:
        def call(environ: dict[str, Any], start_response: Any) -> Any:
            self.proxies.apply(environ)
            return wsgi_app(environ, start_response)

        return call

    def decide(self, environ: dict[str, Any]) -> Decision:
        """Whether a request may proceed, by its headers and peer only: reads no body, counts and changes nothing.

        ``environ`` is the server's WSGI environ. May be called from any thread, before the body has arrived.
        """
        environ = dict(environ)
        self.proxies.apply(environ)
        asked = self._app.request_class(environ, populate_request=False, shallow=True)
        try:
            endpoint, _ = self._app.url_map.bind_to_environ(environ).match()
        except (HTTPException, RequestRedirect):
            endpoint = None
        return self._decide(asked, endpoint)

    def body_limit(self, environ: dict[str, Any]) -> int:
        """The maximum body size for a request of which only the headers have arrived. Raises the RoostError that
        :meth:`check` would return, or ``too_large``."""
        environ = dict(environ)
        self.proxies.apply(environ)  # an API below a path is one
        decision = self.decide(environ)
        if decision.error is not None:
            raise decision.error
        limit = self._most_bytes(decision, environ.get("PATH_INFO", ""))
        length = environ.get("CONTENT_LENGTH") or "0"
        if length.isdecimal() and int(length) > limit:
            raise RoostError("too_large", found=int(length), limit=limit)
        return limit

    def _most_bytes(self, decision: Decision, path: str) -> int:
        if decision.step is not Step.PROCEED or decision.role is Role.STRANGER:
            return login.MAX_FORM_BYTES
        return self.settings.api_max_body_bytes if is_api_path(path) else self.settings.max_body_bytes

    def _decide(self, asked: Request, endpoint: str | None) -> Decision:
        if self._host(asked) is None:
            return _refused(RoostError("not_allowed", reason=UNKNOWN_HOST), status=400)
        if self._has_tls and asked.scheme == "http" and endpoint not in WITHOUT_TLS and asked.path != STYLE_PATH:
            is_page = asked.method in ("GET", "HEAD") and not is_handshake(asked) and not is_api_path(asked.path)
            return Decision(Step.SECURE) if is_page else _refused(RoostError("https_only"))
        reason = self._foreign(asked)
        if reason:
            return _refused(RoostError("not_allowed", reason=reason))
        if self._cors.is_preflight(asked):
            return Decision(Step.PREFLIGHT)
        if asked.method == "GET" and asked.path == STYLE_PATH:  # of the login page
            return Decision(Step.STYLE)
        if (by_token := self._by_token(asked, endpoint)) is not None:
            return by_token
        role, session, person, is_guess = self._role(asked)
        if asked.path == login.OWNER_PATH and asked.method in ("GET", "HEAD"):
            return Decision(Step.OWNER_LINK, role, session, person)
        if asked.path == login.LOGIN_PATH and (self.token or self.people.has_accounts):
            return Decision(Step.LOGIN, role, session, person)
        if role is Role.STRANGER and least_role(endpoint) is not Role.STRANGER:
            if asked.method == "GET" and not is_handshake(asked) and asked.args.get("token"):
                return Decision(Step.TOKEN_LINK)
            return _refused(RoostError("invalid_api_key"), is_guess=is_guess)
        if role < least_role(endpoint):
            return _refused(RoostError("owner_only"), role, session, person=person)
        return Decision(Step.PROCEED, role, session, person)

    def check(self) -> Response | None:
        """The guard's own response, or None if the request may continue with ``g.role``, ``g.session`` and
        ``g.person``."""
        # one program on this machine is no attacker: it may count the tokens of a whole corpus
        if not is_near(request) and not self._rate.allows(address_key(client_address())):
            return answer_error(RoostError("too_many_requests"))
        decision = self._decide(request, request.endpoint)
        g.role, g.session, g.person, g.token = decision.role, decision.session, decision.person, decision.token
        if decision.session:
            self.sessions.touch(decision.session)
        if decision.person is not NOBODY:
            self.people.saw(decision.person)
        if decision.token:
            self.tokens.touch(decision.token)
        if decision.step is Step.PROCEED:
            refused: RoostError | None = request.environ.get(REFUSAL_KEY)  # its body was not read
            has_api = "api_limit" in current_app.extensions
            is_api = has_api and (request.endpoint or "").startswith("api ")  # the API answers it itself, and counts it
            if refused and not is_api:
                return answer_error(refused)
            check_own(decision.person)
            return None
        if decision.step is Step.PREFLIGHT:
            return self._cors.answer_preflight()
        if decision.step is Step.STYLE:
            return login.login_style()
        if decision.step is Step.SECURE:
            return redirect(f"https://{request.host}{request.full_path.rstrip('?')}", 307)  # type: ignore[return-value]
        if decision.step is Step.OWNER_LINK:
            return self._open(decision)
        if decision.step is Step.TOKEN_LINK:
            return self._try_token(request.args["token"], login.page_without_token())
        if decision.step is Step.LOGIN:
            return self._login()
        return self._refuse(decision)

    def _host(self, asked: Request) -> str | None:
        """The Host header if it is ours.

        Flask's TRUSTED_HOSTS is not used: werkzeug 3.1.9 cannot match an IPv6 literal.
        """
        header = asked.environ.get("HTTP_HOST", "").lower()
        match = HOST_PATTERN.fullmatch(header)
        if match is None:
            return None
        name = match[1].rstrip(".")
        # Rebinding needs a name; on a shared server, any IP address that led here belongs to this machine.
        is_ours = name in self.hosts or (self.is_shared and is_address(name.strip("[]")))
        return header if is_ours else None

    def _foreign(self, asked: Request) -> Text | str:
        """Why the sender is another site's page, or "". A page cannot change these headers."""
        origin = asked.headers.get("Origin")
        if self._cors.is_listed_page(asked):
            return ""
        is_checked = is_handshake(asked) or asked.method not in SAFE_METHODS
        if origin is not None and is_checked and origin not in self._own_origins(asked):
            return changed_by_proxy(asked, origin) or OTHER_SITE
        site = asked.headers.get("Sec-Fetch-Site")
        if site not in (None, "same-origin", "none") and not is_followed_link(asked):
            return OTHER_SITE
        # Every browser sends an Origin with a handshake; a program sends its token instead.
        if is_handshake(asked) and origin is None and not shown_keys(asked):
            return NO_ORIGIN
        return ""

    def _own_origins(self, asked: Request) -> tuple[str, ...]:
        own = f"{asked.scheme}://{asked.host}"
        # A proxy named by --allow-host may speak https to the browser and http to us.
        name = asked.host.partition(":")[0].lower()
        return (own, f"https://{asked.host}") if name in self.named_hosts else (own,)

    def _by_token(self, asked: Request, endpoint: str | None) -> Decision | None:
        """The decision for an API token; None if there is none. An unknown token is refused even if no proof is
        required, because it was revoked. Besides its person's rights it has those of the "models" scope."""
        shown = next((key for key in shown_keys(asked) if key.startswith(TOKEN_PREFIX)), None)
        if shown is None:
            return None
        token = self.tokens.find(shown)
        person = self.people.find(token.person_id) if token is not None else None
        if token is None or person is None:
            return _refused(RoostError("invalid_api_key"), is_guess=True)
        role = Role.GUEST if person.id == SHARED_ID else Role.PERSON
        is_for_program = "text/html" not in asked.accept_mimetypes.values()
        scope = scope_of(endpoint or "", is_for_program)
        if scope is None or (scope and scope not in token.scopes):
            refusal = RoostError("token_scope", name=token.name, scopes=", ".join(token.scopes))
            return _refused(refusal, role, person=person)
        least = least_role(endpoint)
        role = max(least, role) if scope == "models" else role
        if role < least:
            return _refused(RoostError("owner_only"), role, person=person)
        return Decision(Step.PROCEED, role, None, person, token=token)

    def _role(self, asked: Request) -> tuple[Role, Session | None, Person, bool]:
        """What the request proves and who sent it, and whether it contained a wrong key. An ended session is not a
        guess. If no proof is required, the server is for one person, who has the owner's chats."""
        keys = shown_keys(asked)
        if any(self.proof.is_key(key) for key in keys):
            return Role.OWNER, None, self.people.owner, False
        # A page in cors_origins acts for its own readers, not for the owner of the cookie.
        cookie = "" if self._cors.is_listed_page(asked) else asked.cookies.get(cookie_name(asked), "")
        session = self.sessions.find(cookie) if cookie else None
        person = self.people.find(session.person_id) if session is not None else None
        if session is not None and person is not None:
            is_of_token = bool(self.token) and session.token_hash == digest(self.token)
            if person.may_own or is_of_token or not session.token_hash:
                return Role.OWNER if person.may_own else Role.PERSON, session, person, False
        if self.token and any(self._is_right(key) for key in keys):
            return Role.GUEST, None, self.people.find(SHARED_ID) or NOBODY, False
        role = role_without_proof(bool(self.token) or self.people.has_others, is_near(asked), bool(self.token))
        person = NOBODY if role is Role.STRANGER else self.people.owner
        return role, None, person, role is Role.STRANGER and bool(keys)

    def allows_guess(self, key: str) -> bool:
        """Counts a wrong try of an IP address (:func:`address_key`); False if there were too many."""
        return self._guesses.allows(key)

    def _refuse(self, decision: Decision) -> Response:
        assert decision.error is not None
        if decision.is_guess and not self._guesses.allows(address_key(client_address())):
            return answer_error(RoostError("too_many_requests"))
        if decision.error.code != "invalid_api_key":
            return answer_error(decision.error, decision.status)
        if wants_json() or is_handshake(request) or request.method not in SAFE_METHODS:
            response = answer_error(decision.error)
        else:
            response = self._login_form()
        if "HX-Request" in request.headers:
            response.headers["HX-Refresh"] = "true"  # the whole page, which will be the form
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _login(self) -> Response:
        if request.method != "POST":
            return self._login_form(status=200)
        name = login.submitted("name")
        if "password" in request.form:
            try:
                return self._sign_in(name, login.submitted("password"))
            except RoostError as exc:
                return answer_error(exc)
        return self._try_token(login.submitted("token").strip(), login.wanted_page())

    def _login_form(self, **more: Any) -> Response:
        return login.login_form(bool(self.token), self.people.has_accounts, **more)

    def _sign_in(self, name: str, password: str) -> Response:
        """Limits tries per IP address, and per account over all addresses; existing sessions continue meanwhile."""
        person = self.people.account(name)
        if not self.is_password(person, name, password):
            return self._login_form(wrong="password", name=name[: login.NAME_CHARS])
        assert person is not None
        return self.welcome(person, login.wanted_page())

    def is_password(self, person: Person | None, name: str, password: str) -> bool:
        """Raises ``too_many_requests`` after too many wrong tries; a correct one does not count."""
        tries = ((self._guesses, address_key(client_address())), (self._password_tries, tidy(name).casefold()))
        for limit, key in tries:
            if not limit.allows(key):
                raise RoostError("too_many_requests")
        is_right = login.is_password(person, password)
        if is_right:
            for limit, key in tries:
                limit.give_back(key)
        return is_right

    def _try_token(self, token: str, page: str) -> Response:
        """The correct token always works: guessing is slowed by refusing wrong ones."""
        if self._is_right(token):
            return self.welcome(self._guest_of_token(), page, token)
        if not self._guesses.allows(address_key(client_address())):
            return answer_error(RoostError("too_many_requests"))
        return self._login_form(wrong="token")

    def _open(self, decision: Decision) -> Response:
        """Opens an owner's link. It works once; a browser with an owner's session needs no new one."""
        secret = request.args.get("secret", "")
        is_good = self.proof.use(secret, is_of_own_account(request.environ)) if request.method == "GET" else False
        if decision.role is Role.OWNER:
            return login.to_page("/")
        if is_good:
            return self.welcome(self.people.owner, "/")
        if not self._guesses.allows(address_key(client_address())):
            return answer_error(RoostError("too_many_requests"))
        return answer_error(RoostError("owner_link_used"))

    def _guest_of_token(self) -> Person:
        """The guest that this browser was before the server's token changed; otherwise a new one."""
        before = self.sessions.find(request.cookies.get(cookie_name(request), ""))
        known = self.people.find(before.person_id) if before is not None else None
        return known if known is not None and known.kind == GUEST else self.people.add(kind=GUEST)

    def welcome(self, person: Person, page: str, token: str = "") -> Response:
        """Redirects to ``page`` with a session of this person, which replaces this browser's previous one."""
        before = self.sessions.find(request.cookies.get(cookie_name(request), ""))
        agent = request.headers.get("User-Agent", "")
        session_id = self.sessions.begin(person.kind, agent, token, person.id)
        if before is not None:
            self.sessions.end(before.key)  # this browser's, which forgets it now
        return login.welcome(cookie_name(request), session_id, page)

    def _is_right(self, token: str) -> bool:
        return bool(token) and hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode("utf-8"))

    def _add_headers(self, response: Response) -> Response:
        if "Location" in response.headers:  # our own redirects lead below the base path
            response.headers["Location"] = str(at_base(response.headers["Location"]))
        return add_security_headers(self._cors.add_headers(response), self._host(request))


def check_own(person: Person) -> None:
    """For any action on a chat, message, notebook or batch: raises "not found" unless the person owns it."""
    parts, ids = current_app.extensions, request.view_args or {}
    if chats := [ids[name] for name in ("chat_id", "message_id") if name in ids]:
        ChatStore(parts["database"], person.id).check(*chats)
    for name, service in (("notebook_id", "notebooks"), ("batch_id", "batches")):
        if name in ids:
            parts[service].store.check(ids[name], person.id)


def the_guard() -> Guard:
    found: Guard = current_app.extensions["guard"]
    return found


def current_role() -> Role:
    """The role of the current request's sender."""
    role: Role = g.get("role", Role.STRANGER) if has_app_context() else Role.STRANGER
    return role


def require(role: Role) -> None:
    """Raises ``owner_only`` if the request proves less; for requirements beyond the URL, such as a value in the
    body."""
    if current_role() < role:
        raise RoostError("owner_only")


def client_address() -> str:
    return request.remote_addr or ""


def asker(kind: str = "") -> str:
    """The client for limits and slots: a person, or an API token of the owner; otherwise (the owner's pages, programs
    with the server's token) the IP address with this ``kind``."""
    person: Person = g.get("person", NOBODY)
    if person.id not in (NOBODY.id, SHARED_ID, OWNER_ID):
        return f"{PERSON}{person.id}"
    token: ApiToken | None = g.get("token")
    return f"token {token.id}" if token is not None else f"{kind}{client_address()}"


def still_admitted() -> Callable[[], bool]:
    """Returns a function for long requests that any thread may call: False once the person was removed or blocked, or
    the token revoked."""
    guard, person, token = the_guard(), g.get("person", NOBODY), g.get("token")

    def is_admitted() -> bool:
        is_known = person is NOBODY or guard.people.find(person.id) is not None
        return is_known and (token is None or guard.tokens.is_valid(token))

    return is_admitted


def cookie_name(asked: Request) -> str:
    """Includes the port: cookies ignore ports, so two servers on one machine would overwrite each other's."""
    return f"roost_session_{asked.environ.get('SERVER_PORT', '')}"


def changed_by_proxy(asked: Request, origin: str) -> Text | None:
    """If the browser says that the page is this site's, a proxy has changed the site's name: returns what to change in
    its configuration. The request is refused anyway, because programs can send any header."""
    # over plain http to a name on the network browsers do not say it, but a loopback host was then put in by a proxy
    site, is_put_in = asked.headers.get("Sec-Fetch-Site"), asked.host.rpartition(":")[0] in LOOPBACK_NAMES
    if not ORIGIN.fullmatch(origin) or not (site == "same-origin" or (site is None and is_put_in)):
        return None
    scheme, _, host = origin.partition("://")
    if host != asked.host:
        return Text("reason.web.proxy_changes_host", host=asked.host, origin=host)
    return Text("reason.web.proxy_hides_https") if scheme == "https" else None


def is_handshake(asked: Request) -> bool:
    return asked.headers.get("Upgrade", "").lower() == "websocket"


def is_followed_link(asked: Request) -> bool:
    """A clicked link on another site, or our own http URL that redirected to https: a whole page by GET, not a frame,
    image or script. If our service worker passes it on, only the mode shows that."""
    wanted, mode = asked.headers.get("Sec-Fetch-Dest"), asked.headers.get("Sec-Fetch-Mode")
    is_document = wanted == "document" or (wanted == "empty" and mode == "navigate")
    return asked.method == "GET" and is_document and not is_handshake(asked)


def is_near(asked: Request) -> bool:
    """True if the connection comes from this machine with a loopback name and nothing shows that it was forwarded. It
    does not identify the user: other accounts and proxies on this machine look the same."""
    host = asked.host.rpartition(":")[0] if asked.host.count(":") == 1 else asked.host
    name = host.partition("]")[0] + "]" if host.startswith("[") else host
    peer = asked.environ.get(PEER) or asked.environ.get("REMOTE_ADDR") or ""
    return is_loopback(peer) and name.lower() in LOOPBACK_NAMES and is_direct(asked.environ)


def shown_keys(asked: Request) -> list[str]:
    """Keys sent by a program: ``Authorization: Bearer`` (OpenAI), ``x-api-key`` (Anthropic). A client may send both,
    one of them from its environment (ANTHROPIC_AUTH_TOKEN)."""
    kind, _, value = asked.headers.get("Authorization", "").partition(" ")
    keys = [value.strip()] if kind.lower() == "bearer" else []
    return [key for key in (*keys, asked.headers.get("x-api-key", "").strip()) if key]


def known_hosts(settings: Settings) -> set[str]:
    """Names (IPv6 in brackets, lower case, no port) of this server."""
    names = [*LOOPBACK_NAMES, *settings.allow_hosts]
    if settings.is_shared:
        machine = socket.gethostname()
        names += [settings.host, *LOCAL_NAMES, machine, f"{machine.partition('.')[0]}.local"]
    return {name.lower() for name in names}


def _refused(error: RoostError, role: Role = Role.STRANGER, session: Session | None = None, **more: Any) -> Decision:
    return Decision(Step.REFUSE, role, session, error=error, **more)
