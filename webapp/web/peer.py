"""Identifies the client of a connection behind the proxies in ``trusted_proxy``, and limits its requests; and
says which pages of other sites may call the APIs (``cors_origins``).

Forwarding headers (``X-Forwarded-*`` or ``Forwarded``, RFC 7239) are trusted only on a connection from a trusted proxy.
The client is then the rightmost address that is not a trusted proxy, because the client may have invented everything
left of it. On other connections these headers only show that the request was forwarded; a forwarded request never
counts as one from this machine.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping, MutableMapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Request, Response, request

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.web.api.operations import TOOLS_LEFT_OUT, is_api_path

if TYPE_CHECKING:
    from webapp.web.socket.channel import Limits

PEER = "roost.peer"
"""In the WSGI environ: the address of the connection's other end, the proxy's if there is one."""
REFUSAL_KEY = "roost.refusal"
"""In the environ of a request whose body was refused: the RoostError to return. There is no body to read."""
FORWARDING = {
    "HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_REAL_IP", "HTTP_X_CLIENT_IP", "HTTP_CLIENT_IP", "HTTP_X_CLUSTER_CLIENT_IP",
    "HTTP_TRUE_CLIENT_IP", "HTTP_CF_CONNECTING_IP", "HTTP_FLY_CLIENT_IP", "HTTP_X_ORIGINAL_HOST", "HTTP_X_ORIGINAL_URL",
}  # fmt: skip
PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"([^"]*)"|([^;,"\s]*))\s*(?:;|$)')
PREFIX = re.compile(r"(?:/(?!\.)[A-Za-z0-9._~-]+)+")
HOST = re.compile(r"[A-Za-z0-9.\[\]:_-]{1,255}")


class TrustedProxies:
    """Addresses and networks (CIDR). Raises ``settings_invalid`` for an invalid entry, and for a ``base_path`` that is
    not a path. Browsers see Roost below that path, whether or not the proxy removes it."""

    def __init__(self, addresses: Iterable[str] = (), base_path: str = "") -> None:
        self._networks = tuple(_network(address) for address in addresses)
        self._base = base_path.rstrip("/")
        if self._base and not PREFIX.fullmatch(self._base):
            reason = Text("reason.web.not_a_path")
            raise RoostError("settings_invalid", name="base_path", value=base_path, reason=reason)

    def is_trusted(self, address: str) -> bool:
        try:
            found = ip_address(plain_address(address))
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def apply(self, environ: MutableMapping[str, Any]) -> None:
        """Sets the client's address, scheme, host and prefix in a WSGI ``environ``. Calling it twice has the same
        effect. An invalid header changes nothing."""
        if PEER in environ:
            return
        peer = environ[PEER] = environ.get("REMOTE_ADDR") or ""
        if self._base:
            _set_base(environ, self._base)
        if not self.is_trusted(peer):
            return
        hops = _forwarded_hops(environ)
        index = self._client_hop(hops)
        said = hops[index] if hops else {}
        if is_address(said.get("for", "")):
            environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = said["for"]
        if said.get("proto") in ("http", "https"):
            environ["wsgi.url_scheme"] = said["proto"]
        if HOST.fullmatch(said.get("host", "")):
            environ["HTTP_HOST"] = said["host"]
        prefixes = _values(environ, "HTTP_X_FORWARDED_PREFIX")
        if prefixes and PREFIX.fullmatch(prefixes[-1]):
            _set_base(environ, prefixes[-1])

    def client_address(self, environ: Mapping[str, Any]) -> str:
        """The address whose limits apply to the request."""
        copy = dict(environ)
        self.apply(copy)
        return str(copy.get("REMOTE_ADDR") or "")

    def _client_hop(self, hops: list[dict[str, str]]) -> int:
        """Index of the rightmost hop whose address is not a trusted proxy's; the first if all are."""
        for index in range(len(hops) - 1, 0, -1):
            if not self.is_trusted(hops[index].get("for", "")):
                return index
        return 0


def _set_base(environ: MutableMapping[str, Any], base: str) -> None:
    environ["SCRIPT_NAME"] = base
    path = environ.get("PATH_INFO", "")
    if path == base or path.startswith(base + "/"):
        environ["PATH_INFO"] = path[len(base) :] or "/"


def is_direct(environ: Mapping[str, Any]) -> bool:
    """False if something shows that the request was forwarded. nginx by default sends no such header, but uses
    HTTP/1.0, which no current client does."""
    is_named = any(name in FORWARDING or name.startswith("HTTP_X_FORWARDED") for name in environ)
    return not is_named and environ.get("SERVER_PROTOCOL") != "HTTP/1.0"


def is_of_own_account(environ: Mapping[str, Any]) -> bool:
    """False if the connection comes from another account on this machine, or from elsewhere, as far as known. Linux
    shows the account of a loopback connection; root has all rights anyway."""
    peer = environ.get(PEER) or environ.get("REMOTE_ADDR") or ""
    if not is_loopback(peer):
        return False
    if not sys.platform.startswith("linux"):
        return True
    return _account_of(plain_address(peer), int(environ.get("REMOTE_PORT") or 0)) in (0, os.getuid())


def _account_of(address: str, port: int) -> int | None:
    """The user id that owns the connected TCP socket with this local address (``/proc/net/tcp``, proc(5))."""
    raw = ip_address(address).packed
    forms = [raw, b"\0" * 10 + b"\xff\xff" + raw] if len(raw) == 4 else [raw]
    wanted = {f"{_as_words(form)}:{port:04X}" for form in forms}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for columns in (row.split() for row in rows):
            if columns[1] in wanted and columns[3] == "01":  # established; a socket left alone counts as root's
                return int(columns[7])
    return None


def _as_words(packed: bytes) -> str:
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def is_loopback(address: str) -> bool:
    try:
        return ip_address(plain_address(address)).is_loopback
    except ValueError:
        return False


def is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def plain_address(text: str) -> str:
    """Without port, brackets and zone; an IPv4 address mapped into IPv6 as IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    text = text.partition("%")[0].lower()
    return text.removeprefix("::ffff:") if "." in text else text


def _network(address: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(plain_address(address) if "/" not in address else address, strict=False)
    except ValueError as exc:
        reason = Text("reason.web.not_an_address")
        raise RoostError("settings_invalid", name="trusted_proxy", value=address, reason=reason) from exc


def _forwarded_hops(environ: Mapping[str, Any]) -> list[dict[str, str]]:
    """The data from each proxy, nearest last: keys "for", "proto", "host".

    If both kinds of header are present, X-Forwarded-For counts, because proxies that write it pass on a client's own
    ``Forwarded`` unchecked.
    """
    addresses = _values(environ, "HTTP_X_FORWARDED_FOR")
    if not addresses and "HTTP_FORWARDED" in environ:
        return [_forwarded_element(element) for element in _values(environ, "HTTP_FORWARDED")]
    hops = [{"for": plain_address(address)} for address in addresses] or [{}]
    for key, name in (("proto", "HTTP_X_FORWARDED_PROTO"), ("host", "HTTP_X_FORWARDED_HOST")):
        values = _values(environ, name)
        for number, hop in enumerate(reversed(hops), start=1):
            if values:  # most proxies replace these two, so there may be fewer of them than of addresses
                hop[key] = values[-number].lower() if number <= len(values) else values[-1].lower()
    return hops


def _forwarded_element(element: str) -> dict[str, str]:
    found = {name.lower(): (quoted or plain).lower() for name, quoted, plain in PAIR.findall(element)}
    if "for" in found:
        found["for"] = plain_address(found["for"])
    return found


def _values(environ: Mapping[str, Any], name: str) -> list[str]:
    return [value.strip() for value in str(environ.get(name, "")).split(",") if value.strip()]


def address_key(address: str) -> str:
    """The key for counting one client: an IPv4 address, or an IPv6 network of 64 bits, which one host owns."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(found) if found.is_loopback else str(IPv6Address(int(found) >> 64 << 64))


class RateLimit:
    """Allows ``burst`` requests at once and ``per_second`` on average; limits the number of stored keys."""

    def __init__(self, per_second: float, burst: float, most_keys: int = 4096) -> None:
        self.per_second = per_second
        self.burst = burst
        self.most_keys = most_keys
        self._levels: dict[str, tuple[float, float]] = {}  # key -> (level, when), least recently used first
        self._lock = threading.Lock()

    def allows(self, key: str) -> bool:
        """Takes one from ``key``'s bucket; False if it is empty."""
        now = time.monotonic()
        with self._lock:
            level, then = self._levels.pop(key, (self.burst, now))
            level = min(self.burst, level + (now - then) * self.per_second)
            is_allowed = level >= 1
            self._levels[key] = (level - 1 if is_allowed else level, now)
            if len(self._levels) > self.most_keys:
                self._levels.pop(next(iter(self._levels)))
        return is_allowed

    def give_back(self, key: str) -> None:
        """Returns one to ``key``'s bucket."""
        with self._lock:
            if key in self._levels:
                level, then = self._levels[key]
                self._levels[key] = (min(self.burst, level + 1), then)

    def __len__(self) -> int:
        return len(self._levels)


def share_of_one(places: int) -> int:
    """The maximum for one client, so that others find a free place."""
    return places * 3 // 4


def connections_of(is_for_one: bool, limits: Limits, proxies: TrustedProxies, client: str) -> int:
    """Maximum HTTP connections of one client; more for programs on this machine if the server is for one person, and
    for a trusted proxy, which has the connections of all its clients."""
    if proxies.is_trusted(client):
        return limits.connections
    return share_of_one(limits.connections) if is_for_one and is_loopback(client) else limits.per_address


# pages of other sites

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[^/\s*:\[\]]+|\*)(:(\d+|\*))?")
ORIGIN_PRESETS = {
    "apps": (
        "app://*", "tauri://localhost", "http://tauri.localhost", "https://tauri.localhost", "capacitor://localhost",
        "ionic://localhost", "vscode-webview://*", "vscode-file://vscode-app",
    ),
    "extensions": ("chrome-extension://*", "moz-extension://*", "safari-web-extension://*"),
}  # fmt: skip
"""Names for the origins of desktop apps (Electron's own scheme, Tauri, Capacitor, VS Code) and of browser extensions,
whose host differs on every machine."""
HEADERS = "authorization, content-type, x-api-key, anthropic-version, anthropic-dangerous-direct-browser-access"


class Cors:
    """Accepts entries ``scheme://host[:port]``, ``http://localhost:*`` (any port), ``app://*`` (any host, not for web
    schemes), names in :data:`ORIGIN_PRESETS`, and ``*`` if a token is required (``has_token``); raises
    ``settings_invalid`` for others. Cookies are never allowed: a listed page must send the token if one is required."""

    def __init__(self, origins: Iterable[str], has_token: bool) -> None:
        listed = [one for origin in origins for one in ORIGIN_PRESETS.get(origin, (origin,))]
        for origin in listed:
            is_any_site = origin.startswith(("http://*", "https://*"))
            is_good = has_token if origin == "*" else ORIGIN.fullmatch(origin) and not is_any_site
            if not is_good:
                reason = Text("reason.web.any_page_needs_a_token" if origin == "*" else "reason.web.not_an_origin")
                raise RoostError("settings_invalid", name="cors_origins", value=origin, reason=reason)
        patterns = (re.escape(origin).replace(r"\*", ".*" if origin == "*" else "[^/:]+") for origin in listed)
        self._allowed = re.compile("|".join(patterns)) if listed else None

    def is_listed_page(self, asked: Request) -> bool:
        """Whether the request comes from a listed page and goes to an API, not to a page or a socket."""
        is_socket = "Upgrade" in asked.headers
        origin = asked.headers.get("Origin")
        if self._allowed is None or origin is None or is_socket or not is_api_path(asked.path):
            return False
        return self._allowed.fullmatch(origin) is not None

    def is_preflight(self, asked: Request) -> bool:
        is_asking = "Access-Control-Request-Method" in asked.headers
        return asked.method == "OPTIONS" and is_asking and self.is_listed_page(asked)

    def answer_preflight(self) -> Response:
        response = Response(status=204)
        # official clients send x-stainless-… headers of their own
        asked = request.headers.get("Access-Control-Request-Headers", "")
        response.headers["Access-Control-Allow-Headers"] = (
            asked if re.fullmatch(r"[\w\-, ]{1,2000}", asked) else HEADERS
        )
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
        response.headers["Access-Control-Max-Age"] = "600"
        return response

    def add_headers(self, response: Response) -> Response:
        if self._allowed and is_api_path(request.path):
            response.vary.add("Origin")
        if self.is_listed_page(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = (
                f"Retry-After, X-Request-Id, Request-Id, {TOOLS_LEFT_OUT}"
            )
        return response
