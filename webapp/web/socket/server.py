"""The HTTP server: flask-sock's WebSockets and waitress' HTTP on the same port, in the same process.

waitress keeps every socket in one select or poll loop and has no upgrade; simple-websocket (under flask-sock) needs the
raw socket. :mod:`webapp.web.socket.channel` removes an upgraded connection from that loop.

    server = BridgeServer(app, websockets={"limit": 100}, host="127.0.0.1", port=8000)
    server.run()

This package touches what waitress does not document (pinned to >=3.0.1,<4): HTTPChannel.received, readable, writable,
handle_*, add_channel, del_channel, service, cancel, request, requests, requests_lock, total_outbufs_len,
last_activity, will_close, close_when_flushed; HTTPRequestParser.received, empty, path, body_rcv and what it reads from
a header; ChunkedReceiver's control_line and trailer; WSGITask.get_environment; TcpWSGIServer's channel_class,
handle_accept, add_task, readable and trigger; ThreadedTaskDispatcher; wasyncore.loop. ``tests/web/test_bridge.py`` and
``tests/web/test_front_door.py`` fail loudly if one of them changes.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from typing import Any

import flask_sock
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from webapp.web.peer import RateLimit, address_key
from webapp.web.socket.channel import Channel, Limits
from webapp.web.socket.tls import TlsSocket
from webapp.web.socket.websocket import WebSocket, WebSocketPool

log = logging.getLogger(__name__)
Gate = Callable[[dict[str, Any]], int]
"""Maximum size of a request's body, given its WSGI environ; raises the RoostError to respond with. Called in the loop's
thread when the headers are complete, so it must not block."""
ANY_SIZE = 1 << 62
ACCEPTS_A_TURN = 32
ACCEPT_PAUSE_S = 0.5
SELECT_LIMIT = 480  # on Windows, select() fails for more than 512 sockets, which would end the loop
COMPLAINTS_PER_S = 1 / 60
REFUSED = (
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{reason}"
)


RECENT_S = 1.0
"""A connection used more recently is not idle, because its next request may already be on the way."""


class Places:
    """The open HTTP connections by client; upgraded ones have their own limit. Used only in the loop's thread.

    ``limit_of`` returns the maximum for one client (by :func:`address_key`).
    """

    def __init__(self, limit: int, limit_of: Callable[[str], int]) -> None:
        self.limit = limit
        self._limit_of = limit_of
        self._channels: defaultdict[str, set[Any]] = defaultdict(set)

    def add(self, channel: Any) -> None:
        self._channels[channel.client].add(channel)

    def discard(self, channel: Any) -> None:
        held = self._channels[channel.client]
        held.discard(channel)
        if not held:
            del self._channels[channel.client]

    def __len__(self) -> int:
        return sum(map(self._count, self._channels))

    def refusal(self, address: str) -> str | None:
        """Why ``address`` gets no further connection; None if it does. If needed, closes an idle connection of this
        client, or of the client with the most."""
        client = address_key(address)
        if self._count(client) >= self._limit_of(client) and not self._end_idlest(client):
            return "too many connections from this address"
        if len(self) >= self.limit and not self.make_room():
            return "too many connections"
        return None

    def make_room(self) -> bool:
        """Closes an idle connection of the client that has the most connections and an idle one; False if all are in
        use."""
        return any(map(self._end_idlest, sorted(self._channels, key=self._count, reverse=True)))

    def _count(self, client: str) -> int:
        return sum(not channel.will_close for channel in self._channels.get(client, ()))

    def _end_idlest(self, client: str) -> bool:
        """The loop closes the channel in its next pass. If it were closed now, its descriptor's number could be given
        to another one."""
        before = time.time() - RECENT_S  # last_activity uses this clock
        idle = [channel for channel in self._channels.get(client, ()) if channel.is_idle_since(before)]
        if not idle:
            return False
        min(idle, key=lambda channel: channel.last_activity).will_close = True
        return True


class Line:
    """A queue in which slow requests wait for one of ``places`` without a thread: threads are for requests in progress
    and for pages. Used in the loop's thread and by waitress' workers.

    ``paths`` are the paths of such requests. The client with the fewest requests in progress is next. If ``limit`` are
    waiting, another request goes to the app immediately, which refuses it.
    """

    def __init__(self, paths: Collection[str], places: int, limit: int) -> None:
        self.start: Callable[[Any], None] = lambda task: None
        """Gives a task to a worker."""
        self._paths = paths
        self._places = places
        self._limit = limit
        self._open: Counter[str] = Counter()
        self._waiting: list[Any] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, channel: Any) -> None:
        """``channel`` has a request, to be processed now or later."""
        path = getattr(channel.requests[0], "path", "")  # a request with an incomplete header has no path
        if path.rstrip("/") not in self._paths:
            return self.start(channel)
        with self._lock:
            if self._open.total() >= self._places:
                if len(self._waiting) < self._limit:
                    return self._waiting.append(channel)
                return self.start(channel)
            self._open[channel.client] += 1
        self.start(_Turn(channel, self))

    def leave(self, client: str) -> None:
        with self._lock:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
            if not self._waiting:
                return
            following = min(self._waiting, key=lambda channel: self._open[channel.client])
            self._waiting.remove(following)
            self._open[following.client] += 1
        self.start(_Turn(following, self))


class _Turn:
    """A request that has a place, as a task for waitress."""

    def __init__(self, channel: Any, line: Line) -> None:
        self._channel = channel
        self._line = line

    def service(self) -> None:
        try:
            self._channel.service()  # only closes the channel if the client has left
        finally:
            self._line.leave(self._channel.client)

    def cancel(self) -> None:
        self._channel.cancel()


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections within the limits, and pauses while the system has no free descriptor."""

    channel_class = Channel

    def __init__(self, app: Any, door: BridgeServer, **options: Any) -> None:
        self.door = door
        self.websockets = door.websockets
        self.places = door.places
        self.limits = door.limits
        self._accept_again = 0.0
        super().__init__(app, **options)
        if door.line is not None:
            self.add_task = door.line.add

    def readable(self) -> bool:
        is_open = bool(super().readable())  # also closes connections that are idle for too long
        return is_open and time.monotonic() >= self._accept_again

    def handle_accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                pair = self.accept()
            except OSError as exc:  # no descriptor or no memory
                # The connection stays in the system's queue; without a pause the loop would use all of a CPU.
                self._accept_again = time.monotonic() + ACCEPT_PAUSE_S
                self.places.make_room()
                self.door.complain("No further connection can be accepted: %s", exc)
                return
            if pair is None:
                return
            self._take(*pair)

    def _take(self, sock: socket.socket, address: Any) -> None:
        refused = self.places.refusal(address[0])
        if refused:
            self.door.complain("A connection from %s was refused: %s", address[0], refused)
            refuse(sock, refused)
            return
        try:
            self.set_socket_options(sock)
            context = self.door.tls_context() if self.door.tls_context else None
            front = sock if context is None else TlsSocket(sock, context)
            self.channel_class(self, front, address, self.adj, map=self._map)
        except OSError:  # macOS: the client has already left
            sock.close()


def refuse(sock: socket.socket, reason: str) -> None:
    """Sends the reason if this does not block."""
    with contextlib.suppress(OSError), sock:
        sock.setblocking(False)
        sock.send(REFUSED.format(length=len(reason), reason=reason).encode())
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65536)  # with unread input the system would send a reset, and the client would lose the response


class BridgeServer:
    """waitress' listeners with limits. ``run`` also ends the WebSockets."""

    def __init__(
        self,
        app: Any,
        websockets: dict[str, Any] | None = None,
        limits: Limits | None = None,
        limit_of: Callable[[str], int] | None = None,
        gate: Gate | None = None,
        client_of: Callable[[dict[str, Any]], str] | None = None,
        line: Any = None,
        tls_context: Callable[[], ssl.SSLContext | None] | None = None,
        **adjustments: Any,
    ) -> None:
        """``adjustments`` are waitress' own: ``sockets`` that are already bound, or ``host`` and ``port``, which are
        bound here. ``websockets`` are arguments of :class:`WebSocketPool`. ``limit_of`` returns the most connections of
        a client, if not ``limits.per_address``; ``client_of`` the address for which a request's WebSocket counts, if
        not its peer's (a trusted proxy's client). ``line``, if given, has ``add(channel)``, which is called for every
        request instead of queueing it for a worker, and gets ``start(task)`` for that queue. ``tls_context`` is called
        at each new connection; None means plain http."""
        # flask-sock uses this module-level name; a subclass of Sock would have to copy its route().
        flask_sock.Server = WebSocket
        self.limits = limits = limits or Limits()
        self.gate = gate or (lambda environ: ANY_SIZE)
        self.client_of = client_of or (lambda environ: str(environ.get("REMOTE_ADDR", "")))
        self.line = line
        self.tls_context = tls_context
        self.websockets = WebSocketPool(**(websockets or {}))
        # Without a lookahead, a client that has left goes unnoticed; select() fails for descriptors >= 1024.
        adjustments = {"channel_request_lookahead": 1, "asyncore_use_poll": True, **adjustments}
        # This package's limits apply first; waitress' own would stop accepting connections of all clients.
        adjustments |= {"connection_limit": ANY_SIZE, "max_request_body_size": ANY_SIZE}
        self._adjustments = Adjustments(**adjustments)
        has_poll = hasattr(select, "poll") and self._adjustments.asyncore_use_poll
        most = limits.connections if has_poll else min(limits.connections, SELECT_LIMIT)
        self.places = Places(most, limit_of or (lambda address: limits.per_address))
        self._complaints = RateLimit(COMPLAINTS_PER_S, 1)
        self._map: dict[int, Any] = {}
        self._workers = ThreadedTaskDispatcher()
        if line is not None:
            line.start = self._workers.add_task
        self._listeners = self._listen(app)
        self._workers.set_thread_count(self._adjustments.threads)
        self._left: list[Any] = []
        self._waking = threading.Lock()
        self._is_closed = False
        self.addresses = [(str(s.effective_host), int(s.effective_port)) for s in self._listeners]

    def _listen(self, app: Any) -> list[Listener]:
        adjustments = self._adjustments
        options = {"map": self._map, "dispatcher": self._workers, "adj": adjustments}
        bound = [(sock, (sock.family, sock.type, sock.proto, sock.getsockname())) for sock in adjustments.sockets]
        try:
            if bound:
                return [Listener(app, self, _sock=sock, sockinfo=i, bind_socket=False, **options) for sock, i in bound]
            return [Listener(app, self, sockinfo=info, **options) for info in adjustments.listen]
        except OSError:
            for listener in list(self._map.values()):
                listener.close()
            raise

    def complain(self, message: str, *details: Any) -> None:
        """Logs a warning, at most once a minute for each ``message``, so that clients cannot fill the log."""
        if self._complaints.allows(message):
            log.warning(message, *details)

    def run(self) -> None:
        """Serves until :meth:`stop`, or until a signal handler raises SystemExit or KeyboardInterrupt here."""
        try:
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop()
        finally:
            self.close()

    def loop(self) -> None:
        """Serves until :meth:`stop`; the caller calls :meth:`close`."""
        adjustments = self._adjustments
        wasyncore.loop(adjustments.asyncore_loop_timeout, adjustments.asyncore_use_poll, self._map)

    def stop(self) -> None:
        """May be called from any thread, but not from a signal handler, which may interrupt the holder of this lock."""
        with self._waking:  # without the lock, the loop might end and close the trigger before this call has used it
            if not self._is_closed:
                self._listeners[0].trigger.pull_trigger(self._leave)

    def _leave(self) -> None:
        """The loop ends when its map is empty."""
        self._left += self._map.values()
        self._map.clear()

    def close(self) -> None:
        """Stops accepting connections, then ends WebSockets, then workers; takes a few seconds at most."""
        self._leave()
        for listener in self._listeners:
            listener.socket.close()
        self.websockets.shutdown()
        for channel in self._left:
            if isinstance(channel, Channel):
                channel.abandon()
        self._workers.shutdown()
        if not self._workers.threads:
            # A remaining worker might use the trigger later, when another file may have its descriptor's number.
            with self._waking:
                self._is_closed = True
                for listener in self._listeners:
                    listener.trigger.close()
