"""Runs one call: the arguments are checked first, and any failure becomes text for the model.

An HTTP tool is restricted to what a model or a visitor may reach. Only hosts on the allow list are requested. A name is
resolved once and the connection uses exactly that address, so that it cannot change afterwards. Non-public addresses
are refused unless the list contains the address itself. Redirects are not followed. Time and size are limited for the
whole response.
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
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from msgspec import Struct

from webapp.chat.messages import ToolCall
from webapp.errors import ToolFailed
from webapp.i18n import Text
from webapp.tools.builtin import BUILTINS
from webapp.tools.builtin.attachment_search import Texts
from webapp.tools.definition import Behaviour, HttpCall, ToolDefinition, strict_json
from webapp.tools.schema_check import Matcher, Problem, argument_problems, coerced

MAX_RESULT_CHARS = 16_000
"""The longest result that a model reads; a longer one is cut off, with a note."""
MAX_RESPONSE_BYTES = 256 * 1024
CHUNK_BYTES = 16 * 1024
METHODS = ("GET", "POST", "PUT", "DELETE")
NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # a provider's network, RFC 6598
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # the host of a virtual machine on Azure
        "169.254.0.0/16",  # link-local, RFC 3927: metadata of most clouds
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # IETF protocols, RFC 6890: metadata of some clouds
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved, RFC 1112, and broadcast
    )
)
"""Python's ``is_global`` differs between versions for some of these. The tables are the IANA registries of
special-purpose addresses as of 2026."""
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
"""The range for public addresses, RFC 4291; others are loopback, local, multicast or contain an IPv4 address."""
NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # IETF protocols, RFC 2928: Teredo (RFC 4380), benchmarks, ORCHID
        "2001:db8::/32",  # documentation, RFC 3849
        "3fff::/20",  # documentation, RFC 9637
    )
)
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052; 64:ff9b:1::/48 (RFC 8215) is local to a network
SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")  # RFC 3056
ISATAP = (0x00005EFE, 0x02005EFE)
"""The third 32 bits of an address that ends with an IPv4 address, RFC 5214."""
UNESCAPED = "%/:?#[]@!$&'()*+,;=~"
"""Characters that need no escaping in a path and query, or are escapes already. Addresses may contain any language."""
FORBIDDEN_HEADERS = {"host", "content-length", "transfer-encoding", "connection"}


class ToolResult(Struct, frozen=True):
    """``text`` is for the model. ``problems`` are those of the arguments, with their paths. ``reason`` is the error for
    the user, or ""."""

    text: str
    is_error: bool = False
    problems: tuple[Problem, ...] = ()
    reason: Text | str = ""


IsStopped = Callable[[], bool]
Remote = Callable[[ToolDefinition, Mapping[str, Any], IsStopped], ToolResult]
"""Runs a call of a remote tool (MCP) with checked arguments; never raises. Returns soon after the result is no longer
needed."""


def never() -> bool:
    return False


def arguments_of(call: ToolCall, definition: ToolDefinition) -> dict[str, Any]:
    """The call's arguments, converted to the schema's types. Raises ValueError if they are not a JSON object."""
    value = strict_json(call.arguments or "{}")
    if not isinstance(value, dict):
        raise ValueError(Text("reason.tools.arguments_not_an_object"))
    return coerced(value, definition.parameters)


def check_call(call: ToolCall, definition: ToolDefinition, matches: Matcher | None = None) -> tuple[Problem, ...]:
    """The problems of the arguments; runs nothing."""
    try:
        arguments = arguments_of(call, definition)
    except ValueError as exc:
        return (Problem("", Text("reason.tools.arguments_not_an_object_error", error=str(exc)[:250])),)
    return argument_problems(arguments, definition.parameters, matches)


def run_call(
    call: ToolCall,
    definition: ToolDefinition,
    allowed_hosts: Collection[str] = (),
    matches: Matcher | None = None,
    remote: Remote | None = None,
    texts: Texts | None = None,
    is_stopped: IsStopped = never,
) -> ToolResult | None:
    """Returns the result, or None if the user must enter it (ASK). Never raises for an error of the tool or the model.

    ``texts`` are the chat's attachments, for a built-in tool.
    """
    problems = check_call(call, definition, matches)
    if problems:
        return error_result(Text("reason.tools.arguments_do_not_fit", problems=_listed(problems)), problems)
    if definition.behaviour is Behaviour.ASK:
        return None
    if definition.behaviour is Behaviour.FIXED:
        return ToolResult(bounded(definition.fixed_value))
    if definition.behaviour is Behaviour.MCP:
        arguments = arguments_of(call, definition)
        if remote is None:
            return error_result(Text("reason.tools.no_mcp_here"))
        return remote(definition, arguments, is_stopped)
    try:
        return ToolResult(bounded(_answer(call, definition, allowed_hosts, texts)))
    except (ToolFailed, ValueError, ArithmeticError) as exc:
        return error_result(_reason(exc))


def _reason(exc: Exception) -> Text | str:
    given = exc.params.get("reason") if isinstance(exc, ToolFailed) else next(iter(exc.args), None)
    return given if isinstance(given, (Text, str)) else str(exc)


def error_result(reason: Text | str, problems: tuple[Problem, ...] = ()) -> ToolResult:
    """JSON, so that a model can distinguish an error from a value."""
    return ToolResult(bounded(json.dumps({"error": str(reason)}, ensure_ascii=False)), True, problems, reason)


def _listed(problems: tuple[Problem, ...]) -> Text | str:
    """As a Text, if possible, so that the user's language is used."""
    texts = [_placed(problem) for problem in problems]
    return texts[0] if len(texts) == 1 else "; ".join(map(str, texts))


def _placed(problem: Problem) -> Text | str:
    if not problem.path:
        return problem.message
    return Text("reason.common.place_and_problem", path=problem.path, problem=problem.message)


def bounded(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return f"{text[:MAX_RESULT_CHARS]}\n[cut: {len(text)} characters in all]"


def _answer(call: ToolCall, definition: ToolDefinition, allowed_hosts: Collection[str], texts: Texts | None) -> str:
    arguments: Mapping[str, Any] = arguments_of(call, definition)
    if definition.behaviour is Behaviour.HTTP:
        properties = (definition.parameters.get("properties") or {}).items()
        optional = {name: part.get("default") if isinstance(part, Mapping) else None for name, part in properties}
        return http_response(definition.name, definition.http, arguments, allowed_hosts, optional)
    builtin = BUILTINS.get(definition.builtin)
    if builtin is None:
        raise ToolFailed(name=definition.name, reason=Text("reason.tools.no_built_in_tool", name=definition.builtin))
    return json.dumps(builtin.run(arguments, texts), ensure_ascii=False)


class Address(Struct, frozen=True):
    """``host`` as in the address; ``ip`` is used for the connection."""

    scheme: str
    host: str
    port: int
    path: str
    ip: str


def http_response(
    name: str,
    call: HttpCall,
    arguments: Mapping[str, Any],
    allowed_hosts: Collection[str],
    optional: Mapping[str, Any] | None = None,
) -> str:
    """Returns the body as text; raises ToolFailed. ``optional``: values in the address for arguments that a call may
    omit; None removes the mark."""
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
        raise ToolFailed(name=name, reason=_connection_problem(address, exc)) from exc


def _connection_problem(address: Address, exc: Exception) -> Text:
    if isinstance(exc, TimeoutError):
        return Text("reason.tools.did_not_answer_in_time", host=address.host)
    if isinstance(exc, ConnectionRefusedError):
        return Text("reason.tools.nothing_listens", host=address.host, port=address.port)
    return Text("reason.tools.connection_failed", host=address.host, error=str(exc) or type(exc).__name__)


def filled(
    url: str, arguments: Mapping[str, Any], optional: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """The address with every ``{argument}`` replaced by its percent-encoded value, and the arguments not used. An
    omitted argument gets its value in ``optional``; if that is None, its query field is removed."""
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
    """The names of the arguments in an address."""
    return re.findall(r"\{([^{}]*)\}", url)


def _address(name: str, url: str, allowed_hosts: Collection[str]) -> Address:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as exc:
        raise ToolFailed(name=name, reason=Text("reason.tools.is_not_an_address", url=repr(url[:100]))) from exc
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        raise ToolFailed(name=name, reason=Text("reason.tools.is_not_an_http_address", url=repr(url[:100])))
    if host not in {allowed.lower() for allowed in allowed_hosts}:
        raise ToolFailed(name=name, reason=Text("reason.tools.host_not_allowed", host=host))
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=UNESCAPED)
    return Address(parts.scheme, host, port, path, _public_ip(name, host, port))


def _public_ip(name: str, host: str, port: int) -> str:
    """The host's first allowed address."""
    try:
        found = [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as exc:
        raise ToolFailed(name=name, reason=Text("reason.tools.cannot_be_found", host=host)) from exc
    for ip in found:
        if _is_literal(host) or is_public(ip.partition("%")[0]):
            return ip
    address = found[0] if found else "?"
    raise ToolFailed(name=name, reason=Text("reason.tools.private_address", host=host, ip=address))


def is_public(ip: str) -> bool:
    """False for private and reserved addresses. For an IPv6 address that contains an IPv4 address, that address counts
    as well."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in block for block in NOT_PUBLIC_V4)
    carried = _embedded_ipv4(address)
    if carried is not None and not is_public(str(carried)):
        return False
    if address in MAPPED or address in NAT64:
        return True
    return address in PUBLIC_V6 and not any(address in block for block in NOT_PUBLIC_V6)


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which packets for ``address`` are forwarded."""
    number = int(address)
    if address in SIX_TO_FOUR:
        return ipaddress.IPv4Address((number >> 80) & 0xFFFFFFFF)
    if address in MAPPED or address in NAT64 or (number >> 32) & 0xFFFFFFFF in ISATAP:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return None


def _is_literal(host: str) -> bool:
    """An IP address in the allow list is allowed explicitly, even if it is private."""
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
            raise ToolFailed(name=name, reason=Text("reason.tools.took_too_long")) from exc
        raise
    finally:
        deadline.cancel()
        connection.close()
    if deadline.is_over:  # the deadline closed the connection, which looks like the end of the response
        raise ToolFailed(name=name, reason=Text("reason.tools.took_too_long"))
    if not 200 <= response.status < 300:
        raise ToolFailed(name=name, reason=_refusal(address, response, text))
    return text


def _refusal(address: Address, response: http.client.HTTPResponse, text: str) -> Text:
    params: dict[str, Any] = {"host": address.host, "status": response.status}
    place = response.getheader("Location")
    if place and 300 <= response.status < 400:
        params["place"] = place[:200]
        return Text("reason.tools.redirected", **params)
    return Text("reason.tools.answered_with_status", **params, text=text.strip()[:200] or response.reason)


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
            raise ToolFailed(name=name, reason=Text("reason.tools.answer_too_large", limit=limit))
    return _decoded(b"".join(parts), response.headers.get_content_charset("utf-8"))


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "replace")
    except (LookupError, UnicodeError):  # unknown encoding, or not a text encoding
        return data.decode("utf-8", "replace")


class _Deadline:
    """Closes a connection after its total time: a server that sends a byte now and then never causes a read timeout."""

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
    """Connects to the checked address; the certificate is checked for the host's name."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        super().__init__(address.host, address.port, timeout=timeout_s)
        self._address = address
        self.made: socket.socket | None = None
        """The socket, also after http.client has moved it to the response."""

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
