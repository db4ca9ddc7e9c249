"""Serving the app: one process, one port, pages and sockets, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlsplit

from flask import Flask

from webapp.errors import RoostError
from webapp.i18n import Text, system_reason
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.access import owner_link
from webapp.services.certificates import LOCAL_NAMES, Certificates
from webapp.services.downloads.catalogue import fitting, known_models
from webapp.services.strategy import probe
from webapp.settings import LOOPBACK_HOSTS, Settings
from webapp.web.api.operations import GENERATING_PATHS
from webapp.web.peer import TrustedProxies, connections_of, share_of_one
from webapp.web.peer import is_address as is_ip
from webapp.web.socket.channel import Limits
from webapp.web.socket.server import BridgeServer, Line

log = logging.getLogger(__name__)
MAX_HEADER_BYTES = 32 << 10
IDLE_CONNECTION_S = 30  # an unused keep-alive connection is closed after this
CLEANUP_INTERVAL_S = 5
RECEIVE_BYTES = 64 << 10  # a turn of the loop; waitress' 8 KB make 7,500 turns of an upload of 60 MB
DESCRIPTORS = 8192
DESCRIPTORS_KEPT = 64  # the program's files and pipes
DATABASE_DESCRIPTORS = 3  # a thread's connection: database, WAL, shared memory
MIN_CONNECTIONS = 16
FAMILIES = {"localhost": ("127.0.0.1", "::1"), "::": ("::", "0.0.0.0")}
"""Names that stand for an address of each family. Some clients resolve localhost to ::1 (node from 17 on), and an IPv6
socket does not accept IPv4 on every system."""
PORT_TRIES = 5
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
PREPARE_AFTER_S = 3.0
"""Delay, so that the page opened at start and a first message do not wait for it."""
FIRST_TEMPLATES = ("base", "chat/", "status/", "models/")
"""Templates of the page that the browser opens first, and of the largest one."""
INTERRUPTED = 130  # the exit status of a shell's program ended by Ctrl-C


def make_server(app: Flask, settings: Settings) -> BridgeServer:
    """A server that is bound but not running yet; raises ``settings_invalid`` if host or port is not available."""
    descriptors = raise_descriptor_limit()
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # else a warning for every request that waits
    refuse_taken_port(settings)
    guard, certificates = app.extensions.get("guard"), app.extensions.get("certificates")
    limits = connection_limits(settings, descriptors)
    try:
        sockets = bound_sockets(settings.listen_host, settings.port)
    except OSError as exc:
        raise bind_error(settings, exc) from exc
    except UnicodeError as exc:  # no name the DNS could have
        raise RoostError("settings_invalid", name="host", value=settings.host, reason=str(exc)) from exc
    try:
        return BridgeServer(
            app,
            websocket_options(settings),
            limits,
            limit_of=functools.partial(
                connections_of,
                not (settings.is_shared or settings.token),
                limits,
                guard.proxies if guard else TrustedProxies(),
            ),
            gate=guard.body_limit if guard else None,
            client_of=guard.proxies.client_address if guard else None,
            line=program_line(app, settings),
            tls_context=(lambda: certificates.context) if certificates else None,
            sockets=sockets,
            **http_options(settings),
        )
    except BaseException:
        close_all(sockets)
        raise


def program_line(app: Flask, settings: Settings) -> Line | None:
    """For generating requests: the API's limit of parallel ones, and as many waiting as the model's queue allows."""
    limit = app.extensions.get("api_limit")
    if limit is None:
        return None
    return Line(GENERATING_PATHS, limit.limit, settings.max_queue)


def bound_sockets(host: str, port: int) -> list[socket.socket]:
    """One socket per address of ``host``, all on one port; port 0 is any free port. Raises OSError if the first address
    is not available, or if another program uses the port on any of them."""
    for tries_left in reversed(range(1 if port else PORT_TRIES)):
        try:
            return _bound_at(addresses_of(host, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not tries_left:
                raise
    raise AssertionError("the last try raises")


def addresses_of(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    options = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}
    rows = [row for name in FAMILIES.get(host, (host,)) for row in socket.getaddrinfo(name, port, **options)]
    return list(dict.fromkeys((row[0], row[4]) for row in rows))


def _bound_at(addresses: list[tuple[socket.AddressFamily, Any]]) -> list[socket.socket]:
    found: list[socket.socket] = []
    try:
        for family, address in addresses:
            port = found[0].getsockname()[1] if found else address[1]
            try:
                found.append(_bound(family, (address[0], port, *address[2:])))
            except OSError as exc:
                if not found or exc.errno == errno.EADDRINUSE:
                    raise
                log.info("Not listening at %s: %s", address[0], exc)  # a machine without IPv6
    except OSError:
        close_all(found)
        raise
    return found


def _bound(family: socket.AddressFamily, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # there, SO_REUSEADDR lets two programs have one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def websocket_options(settings: Settings) -> dict[str, Any]:
    return {
        "limit": settings.websocket_limit,
        "per_client": settings.websockets_per_client,
        "send_timeout": settings.ws_send_timeout_s,
    }


def http_options(settings: Settings) -> dict[str, Any]:
    """waitress' adjustments; ``send_bytes`` stays at its default of 1, so each token leaves at once."""
    return {
        "threads": settings.http_threads,
        "channel_timeout": IDLE_CONNECTION_S,
        "cleanup_interval": CLEANUP_INTERVAL_S,
        "recv_bytes": RECEIVE_BYTES,
        "max_request_header_size": MAX_HEADER_BYTES,
        "ident": None,
        # The guard needs the forwarding headers: they show that a request is not from this machine.
        "clear_untrusted_proxy_headers": False,
    }


def raise_descriptor_limit() -> int:
    """How many files this process may open now. The default on macOS is 256; every page and stream needs one."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (ValueError, OSError):
            return soft
    return most


def connection_limits(settings: Settings, descriptors: int) -> Limits:
    """The settings, or less if the system allows fewer descriptors: a connection needs one, and its body another."""
    threads = settings.http_threads + settings.websocket_limit
    kept = DESCRIPTORS_KEPT + threads * DATABASE_DESCRIPTORS + settings.websocket_limit
    most = max(MIN_CONNECTIONS, min(settings.connection_limit, (descriptors - kept) // 2))
    return Limits(most, min(settings.connections_per_client, share_of_one(most)))


def refuse_taken_port(settings: Settings) -> None:
    """Checks whether a server responds on the port already.

    waitress sets SO_REUSEADDR, with which Windows (and macOS for another interface's address) lets two servers use one
    port without an error.
    """
    if not settings.port:
        return
    for name in FAMILIES.get(settings.listen_host, (settings.listen_host,)):
        address = (ANY_ADDRESS.get(name, name), settings.port)
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=0.5):
            raise port_taken(settings)


def port_taken(settings: Settings) -> RoostError:
    reason = Text("reason.web.port_is_taken")
    return RoostError("settings_invalid", name="port", value=settings.port, reason=reason)


def bind_error(settings: Settings, exc: OSError) -> RoostError:
    if exc.errno == errno.EADDRINUSE:
        return port_taken(settings)
    if exc.errno == errno.EACCES:
        reason = Text("reason.web.port_is_not_allowed")
        return RoostError("settings_invalid", name="port", value=settings.port, reason=reason)
    return RoostError("settings_invalid", name="host", value=settings.host, reason=system_reason(exc))


def serve(
    app: Flask,
    settings: Settings,
    on_ready: Callable[[str], None] | None = None,
    on_stop: Callable[[], None] | None = None,
) -> None:
    """Serves until Ctrl-C or SIGTERM; a second one exits at once.

    ``on_ready(url)`` runs in its own thread when the port is open; the URL is an owner's link for a browser of this
    account. ``on_stop()`` runs first when the server ends, to stop work that keeps its threads busy.
    """
    server = make_server(app, settings)
    app.extensions["stop"] = server.stop
    preparing = threading.Timer(PREPARE_AFTER_S, prepare_pages, (app, settings))
    preparing.daemon = True
    beside = ThreadPoolExecutor(1, "lan-name")
    name: Future[LanName | None] | None = None
    certificates: Certificates | None = app.extensions.get("certificates")
    if certificates:
        certificates.watch()
    with stopping_on_signals():
        try:
            # All of it, as a signal may come at any moment from here on.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                report_start(app, settings, server.addresses[0][1], on_ready)
                name = beside.submit(named_on_network, settings, server.addresses[0][1])  # others are asked first
                preparing.start()
                server.loop()
        finally:
            preparing.cancel()
            if certificates:
                certificates.close()
            if guard := app.extensions.get("guard"):
                guard.proof.forget_addresses()
            if on_stop:
                on_stop()
            server.close()
            if name is not None and (announced := name.result()) is not None:
                announced.close()


def prepare_pages(app: Flask, settings: Settings) -> None:
    """Prepares what the first visit of each page would wait for: compiles its templates (about 8 ms each), starts the
    file reader's process, and computes the requirements of each published model."""
    manager: ModelManager | None = app.extensions.get("model_manager")
    if manager is None or settings.api_only:
        return
    try:
        for name in sorted(app.jinja_env.list_templates(), key=lambda name: not name.startswith(FIRST_TEMPLATES)):
            app.jinja_env.get_template(name)
        manager.status()
        hardware = probe()
        for model in known_models():
            fitting(model, hardware, manager.engine_memory_bytes())
    except Exception:  # the page that needs it reports the error
        log.exception("the pages could not be prepared")


def report_start(app: Flask, settings: Settings, port: int, on_ready: Callable[[str], None] | None) -> None:
    guard = app.extensions.get("guard")
    here = local_url(settings, port)
    if guard is None:
        announce(settings, port, "")
    else:
        guard.proof.note_addresses([here, *network_urls(settings, port)])
        announce(settings, port, guard.token, owner_link(here, guard.proof.new_secret()))
    certificates: Certificates | None = app.extensions.get("certificates")
    if certificates and certificates.authority_path:
        host = (network_urls(settings, port) or [here])[0].replace("https://", "http://")
        print(t("cli.serve.trust_at", url=f"{host}trust", fingerprint=certificates.fingerprint()), flush=True)
    if on_ready:
        url = owner_link(here, guard.proof.new_secret(is_for_own_account=True)) if guard else here
        threading.Thread(target=on_ready, args=(url,), daemon=True).start()


SERVICE = "_http._tcp.local."
ASK_MS = 750.0
"""How long to ask whether a name is in use: RFC 6762, 8.1, three times 250 ms."""


class LanName:
    """The server's name on the local network, by mDNS (RFC 6762), in addition to its addresses: roost.local, or
    roost-2.local if another machine uses that, and so on. Announced until :meth:`close`. Raises ImportError if
    ``zeroconf`` (extra ``lan``) is missing, which is imported only if the server is on the network."""

    def __init__(self, port: int, addresses: list[str], is_tls: bool) -> None:
        import zeroconf

        self._zeroconf: Any = None
        self.name = LOCAL_NAMES[0]
        machine = socket.gethostname().partition(".")[0]
        try:
            self._zeroconf = zeroconf.Zeroconf(interfaces=addresses)
            self.name = self._free_name(addresses)
            info = zeroconf.ServiceInfo(
                SERVICE,
                f"Roost on {machine}.{SERVICE}",
                port=port,
                properties={"path": "/", "tls": "1" if is_tls else "0"},
                server=f"{self.name}.",
                parsed_addresses=addresses,
            )
            self._zeroconf.register_service(info, allow_name_change=True)
        except Exception as exc:  # no multicast, no route, another program at port 5353: the addresses still work
            log.warning("The name %s could not be announced: %s", self.name, exc)
            self.close()

    def _free_name(self, addresses: list[str]) -> str:
        """The first name that no other machine uses; another server on this machine shares it, with another port."""
        import zeroconf

        for name in LOCAL_NAMES[:-1]:
            asked = zeroconf.AddressResolver(f"{name}.")
            if not asked.request(self._zeroconf, ASK_MS) or set(asked.parsed_addresses()) <= set(addresses):
                return name
        return LOCAL_NAMES[-1]

    @property
    def is_announced(self) -> bool:
        return self._zeroconf is not None

    def close(self) -> None:
        """Withdraws the name from the network."""
        found, self._zeroconf = self._zeroconf, None
        if found is not None:
            found.close()


def named_on_network(settings: Settings, port: int) -> LanName | None:
    """Announces roost.local, or the next free name, if others can reach the server; prints it, or what is missing."""
    addresses = [urlsplit(url).hostname or "" for url in network_urls(settings, port)]
    addresses = [address for address in addresses if is_ip(address)]
    if not settings.lan_name or not addresses:
        return None
    try:
        name = LanName(port, addresses, settings.has_tls)
    except ImportError:
        print(t("cli.serve.no_name", name=LOCAL_NAMES[0]), flush=True)
        return None
    if name.is_announced:
        url = url_of(name.name, port, scheme="https" if settings.has_tls else "http")
        print(t("cli.serve.network_at", url=url), flush=True)
    return name


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise SystemExit in the main thread; the second signal ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if seen:
            os._exit(INTERRUPTED)
        seen.append(number)
        raise SystemExit(0)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def local_url(settings: Settings, port: int, token: str = "") -> str:
    """The URL for this machine's own browser."""
    scheme = "https" if settings.has_tls else "http"
    return url_of(ANY_ADDRESS.get(settings.listen_host, settings.listen_host), port, token, scheme)


def url_of(host: str, port: int, token: str = "", scheme: str = "http") -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}/" + (f"?token={quote(token)}" if token else "")


def announce(settings: Settings, port: int, token: str, owner: str = "") -> None:
    """Prints the page's URL and the ``owner``'s link; on a network also a QR code for phones."""
    print(t("cli.serve.open_at", url=local_url(settings, port, token)), flush=True)
    if owner:
        print(t("cli.serve.owner_at", url=owner), flush=True)
    if not settings.is_shared:
        return
    urls = network_urls(settings, port, token)
    for url in urls:
        print(t("cli.serve.network_at", url=url))
    if urls and not settings.has_tls:
        print(t("cli.serve.plain_http"), flush=True)
    if urls and can_print_blocks():
        print_qr(urls[0])


def network_urls(settings: Settings, port: int, token: str = "") -> list[str]:
    """The URLs of a shared server for others; none if only a proxy on this machine can reach it."""
    host = settings.listen_host
    if host in LOOPBACK_HOSTS:
        return []
    kinds = FAMILIES.get(host, (host,))
    addresses = [a for kind in kinds for a in lan_addresses(is_ipv6=":" in kind)] if host in ANY_ADDRESS else [host]
    return [url_of(address, port, token, "https" if settings.has_tls else "http") for address in addresses]


def lan_addresses(is_ipv6: bool) -> list[str]:
    """This machine's addresses of one family that others can reach.

    No packet is sent: a UDP connect only picks a route.
    """
    family, probe = (socket.AF_INET6, "2001:db8::1") if is_ipv6 else (socket.AF_INET, "192.0.2.1")
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((probe, 9))
        address = sock.getsockname()[0]
        if not ipaddress.ip_address(address).is_loopback:
            return [address]
    return []


def can_print_blocks() -> bool:
    try:
        "▀▄█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return sys.stdout.isatty()


def print_qr(url: str) -> None:
    import segno

    segno.make(url, error="l").terminal(compact=True)
