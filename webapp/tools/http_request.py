"""A tool that asks a web address, kept from what a model or a visitor must not reach.

Only hosts on the allow list are asked. A name is resolved once and the connection made to that very address, so that
it cannot point elsewhere a moment later; addresses that are not public are refused unless the list names the address
itself. Redirects are not followed. Time and size are bounded for the whole answer.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import re
import socket
import ssl
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from webapp.errors import Phrase, ToolFailed
from webapp.tools.definition import HttpCall

MAX_RESPONSE_BYTES = 256 * 1024
CHUNK_BYTES = 16 * 1024
METHODS = ("GET", "POST", "PUT", "DELETE")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
WRITTEN_AS_IT_IS = "%/:?#[]@!$&'()*+,;=~"
"""What needs no escaping in a path and a query, or is escaped already. Addresses may be typed in any language."""
FORBIDDEN_HEADERS = {"host", "content-length", "transfer-encoding", "connection"}


@dataclass(frozen=True)
class Address:
    """``host`` as the address says it, ``ip`` where the connection goes."""

    scheme: str
    host: str
    port: int
    path: str
    ip: str


def request(
    name: str,
    call: HttpCall,
    arguments: Mapping[str, Any],
    allowed_hosts: Collection[str],
    optional: Mapping[str, Any] | None = None,
) -> str:
    """The body as text; ToolFailed with the reason. ``optional``: what stands in the address for arguments that a call
    may leave out, None for nothing."""
    url, rest = filled(call.url, arguments, optional or {})
    has_body = call.method in ("POST", "PUT")
    if rest and not has_body:
        url += ("&" if "?" in url else "?") + urlencode({key: _as_text(value) for key, value in rest.items()})
    address = _address(name, url, allowed_hosts)
    body = json.dumps(rest, ensure_ascii=False).encode() if has_body else None
    try:
        return _ask(name, address, call, body)
    except ToolFailed:
        raise
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise ToolFailed(name=name, reason=_lost(address, exc)) from exc


def _lost(address: Address, exc: Exception) -> Phrase:
    if isinstance(exc, TimeoutError):
        return Phrase("{host} did not answer in time", host=address.host)
    if isinstance(exc, ConnectionRefusedError):
        return Phrase("nothing answers at {host}, port {port}", host=address.host, port=address.port)
    return Phrase("the connection to {host} failed ({error})", host=address.host, error=str(exc) or type(exc).__name__)


def filled(
    url: str, arguments: Mapping[str, Any], optional: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """The address with every ``{argument}`` percent-encoded in its place, and the arguments not used. One of
    ``optional`` that was left out is its value there; where that is None, nothing, and its query field is no more."""
    url, rest = url.partition("#")[0], dict(arguments)
    for key, usual in {**(optional or {}), **arguments}.items():
        mark = "{" + key + "}"
        if key in arguments or usual is not None:
            value = rest.pop(key) if key in rest and mark in url else usual
            url = url.replace(mark, quote(_as_text(value), safe=""))
        else:
            url = re.sub(rf"(?<=[?&])[^?&=]*={re.escape(mark)}(?:&|$)", "", url).replace(mark, "")
    return url, rest


def marks(url: str) -> list[str]:
    """The names of the arguments an address asks for."""
    return re.findall(r"\{([^{}]*)\}", url)


def _address(name: str, url: str, allowed_hosts: Collection[str]) -> Address:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as exc:
        raise ToolFailed(name=name, reason=Phrase("{url} is no address", url=repr(url[:100]))) from exc
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        raise ToolFailed(name=name, reason=Phrase("{url} is no http or https address", url=repr(url[:100])))
    if host not in {allowed.lower() for allowed in allowed_hosts}:
        raise ToolFailed(
            name=name, reason=Phrase("{host} is not among the allowed hosts (setting tool_hosts)", host=host)
        )
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=WRITTEN_AS_IT_IS)
    return Address(parts.scheme, host, port, path, _public_ip(name, host, port))


def _public_ip(name: str, host: str, port: int) -> str:
    """The first address of the host that may be asked."""
    try:
        found = [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as exc:
        raise ToolFailed(name=name, reason=Phrase("{host} cannot be found", host=host)) from exc
    for ip in found:
        if _is_literal(host) or is_public(ip.partition("%")[0]):
            return ip
    address = found[0] if found else "?"
    raise ToolFailed(name=name, reason=Phrase("{host} leads to a private address ({ip})", host=host, ip=address))


def is_public(ip: str) -> bool:
    """False for one that leads inside, also where an IPv6 address only carries such an IPv4 address."""
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return address.is_global and not address.is_multicast
    carried = address.ipv4_mapped or address.sixtofour
    if address in NAT64:
        carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if carried is not None:
        return is_public(str(carried))
    return address.is_global and not address.is_multicast


def _is_literal(host: str) -> bool:
    """An address written out was allowed as such, knowingly."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _ask(name: str, address: Address, call: HttpCall, body: bytes | None) -> str:
    connection = _Pinned(address, call.timeout_s)
    deadline = _Deadline(connection, call.timeout_s)
    try:
        connection.request(call.method, address.path, body, _headers(call, body))
        response = connection.getresponse()
        text = _read(name, response)
    except (OSError, http.client.HTTPException) as exc:
        if deadline.is_over:
            raise ToolFailed(name=name, reason="it took too long") from exc
        raise
    finally:
        deadline.cancel()
        connection.close()
    if deadline.is_over:  # cut off where the answer could as well have ended
        raise ToolFailed(name=name, reason="it took too long")
    if not 200 <= response.status < 300:
        raise ToolFailed(name=name, reason=_refusal(address, response, text))
    return text


def _refusal(address: Address, response: http.client.HTTPResponse, text: str) -> Phrase:
    told: dict[str, Any] = {"host": address.host, "status": response.status}
    place = response.getheader("Location")
    if place and 300 <= response.status < 400:
        told["place"] = place[:200]
        return Phrase("{host} answered {status} and sends to {place}; redirects are not followed", **told)
    return Phrase("{host} answered {status}: {text}", **told, text=text.strip()[:200] or response.reason)


def _headers(call: HttpCall, body: bytes | None) -> dict[str, str]:
    given = {key: value for key, value in call.headers.items() if key.lower() not in FORBIDDEN_HEADERS}
    kind = {"Content-Type": "application/json"} if body is not None else {}
    return {"User-Agent": "Roost", "Accept": "application/json, text/*", **kind, **given}


def _read(name: str, response: http.client.HTTPResponse) -> str:
    parts: list[bytes] = []
    size = 0
    while part := response.read1(CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > MAX_RESPONSE_BYTES:
            limit = MAX_RESPONSE_BYTES // 1024
            raise ToolFailed(name=name, reason=Phrase("its answer is larger than {limit} KiB", limit=limit))
    return _decoded(b"".join(parts), response.headers.get_content_charset("utf-8"))


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "replace")
    except (LookupError, UnicodeError):  # no such encoding, or none of texts
        return data.decode("utf-8", "replace")


class _Deadline:
    """Ends a connection when its time is over: a server that sends a byte now and then is never late by itself."""

    def __init__(self, connection: _Pinned, timeout_s: float) -> None:
        self.is_over = False
        self._connection = connection
        self._timer = threading.Timer(timeout_s, self._end)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self.is_over = True
        with contextlib.suppress(OSError):
            if self._connection.made is not None:
                self._connection.made.shutdown(socket.SHUT_RDWR)


class _Pinned(http.client.HTTPConnection):
    """Connects to the address that was checked; the certificate is still the host's."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        super().__init__(address.host, address.port, timeout=timeout_s)
        self._address = address
        self.made: socket.socket | None = None
        """The socket, also after http.client has passed it on to the response."""

    def connect(self) -> None:
        made = socket.create_connection((self._address.ip, self._address.port), self.timeout)
        self.sock = self.made = made
        if self._address.scheme == "https":
            context, host = ssl.create_default_context(), self._address.host
            wrapped = context.wrap_socket(made, server_hostname=host, do_handshake_on_connect=False)
            self.sock = self.made = wrapped
            wrapped.do_handshake()


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
