"""simple-websocket's server with thread-safe sending and limited memory, and the pool of upgraded connections.

Fixes these problems of simple-websocket 1.1.0: after a message over the limit, ``receive()`` waited forever; ``send()``
blocked forever if a client did not read; frames of two threads could mix; an OSError was not a ConnectionClosed; the
inbox had no limit. Uses undocumented parts: ``Base._thread``, ``Base._handle_events``,
``Base.handshake`` (pinned to 1.1.*; ``tests/web/test_bridge.py`` fails loudly if they change).
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from typing import Any

import simple_websocket
from simple_websocket import ConnectionClosed
from werkzeug.exceptions import BadRequest
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from webapp.web.socket.tls import TlsSocket

CONNECTION_KEY = "roost.websocket_connection"
# These two selectors need no descriptor of their own; the default (epoll, kqueue) needs one for every open page.
QuietSelector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class RecordSelector(QuietSelector):  # type: ignore[misc, valid-type]
    """For one :class:`BridgedSocket`, which is ready when it has data to read. A part of a TLS record is not data; a
    thread that waited for the rest would send no pings."""

    def select(self, timeout: float | None = None) -> Any:
        end = None if timeout is None else time.monotonic() + timeout
        while found := super().select(None if end is None else max(0.0, end - time.monotonic())):
            if all(key.fileobj.has_whole_record() for key, _ in found):
                return found
            if end is not None and time.monotonic() >= end:
                break
        return []


def daemon_thread(target: Any, **options: Any) -> threading.Thread:
    return threading.Thread(target=target, daemon=True, **options)


class BridgedSocket:
    """Sends everything or ends the connection; ``close()`` only shuts it down.

    If the descriptor were closed immediately, the system could give its number to another connection while a thread of
    this one still uses it. :meth:`release` closes it, once, when no thread uses it.
    """

    def __init__(self, sock: socket.socket, leftover: bytes = b"", send_timeout: float = 30.0) -> None:
        self.leftover = leftover  # frames that the client sent with its handshake
        self.has_upgraded = False  # a 101 has been sent
        self.is_dead = False
        self._sock = sock
        self._send_lock = threading.Lock()
        sock.settimeout(send_timeout)  # for sendall, applies to the whole call

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes) -> int:
        """Sends all of ``data``; otherwise raises OSError and ends the connection, because half a frame cannot be
        continued."""
        with self._send_lock:
            if self.is_dead:
                raise BrokenPipeError("the connection is gone")
            try:
                self._sock.sendall(data)
            except OSError:
                self.close()
                raise
        self.has_upgraded = self.has_upgraded or bytes(data[:12]) == b"HTTP/1.1 101"
        return len(data)

    def recv(self, size: int) -> bytes:
        while not self.is_dead:
            # The timeout is only for sending; a reader keeps waiting.
            with contextlib.suppress(TimeoutError):
                return self._sock.recv(size)
        return b""

    def has_whole_record(self) -> bool:
        return not isinstance(self._sock, TlsSocket) or self._sock.fill()

    def can_send_now(self) -> bool:
        with QuietSelector() as selector:
            try:
                selector.register(self._sock, selectors.EVENT_WRITE)
                return bool(selector.select(0))
            except (OSError, ValueError):
                return False

    def close(self) -> None:
        self.is_dead = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self.close()
        self._sock.close()


class WebSocket(simple_websocket.Server):  # type: ignore[misc]
    """The argument of a flask-sock handler. Under a server without the bridge (werkzeug's) it behaves like its parent.

    ``send`` may block for the send timeout, so do not call it in a thread that others wait for. ``receive`` raises
    ConnectionClosed when the client has left; a handler that waits for something else checks ``connected``.
    """

    connected: bool
    max_pending = 64  # messages that the handler has not received yet

    def __init__(self, environ: dict[str, Any], **options: Any) -> None:
        self._lock = threading.RLock()
        connection = environ.get(CONNECTION_KEY)
        defaults = {"thread_class": daemon_thread, "selector_class": RecordSelector}
        bridged = connection.options if connection else {}
        try:
            super().__init__(environ, **{**defaults, **bridged, **options})
        except RemoteProtocolError as exc:  # no key, or another protocol version
            raise BadRequest(str(exc)) from exc
        except RuntimeError as exc:  # no socket in environ: an upgrade over HTTP/1.0, or with a body
            raise BadRequest("not a WebSocket handshake") from exc
        if connection:
            connection.websocket = self

    def handshake(self) -> None:
        super().handshake()
        leftover = getattr(self.sock, "leftover", b"")
        if self.connected and leftover:
            self.ws.receive_data(leftover)
            self.connected = self._handle_events()

    def send(self, data: Any) -> None:
        with self._lock:
            try:
                super().send(data)
            except (OSError, LocalProtocolError) as exc:
                self.mark_lost()
                raise ConnectionClosed(CloseReason.ABNORMAL_CLOSURE, str(exc)) from exc

    def close(self, reason: Any = None, message: Any = None) -> None:
        with self._lock:
            try:
                super().close(reason, message)
            except (OSError, LocalProtocolError):
                self.connected = False
        self.event.set()

    def try_close(self, reason: Any, message: Any = None) -> None:
        """Sends a close frame if this does not block: no send is in progress and the socket's buffer has room."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self.connected and self.sock.can_send_now():
                with contextlib.suppress(ConnectionClosed):
                    self.close(reason, message)
        finally:
            self._lock.release()

    def mark_lost(self, reason: Any = CloseReason.ABNORMAL_CLOSURE) -> None:
        """Ends the handler's ``receive`` and ``send``; sends nothing to the client."""
        if self.connected:
            self.connected = False
            self.close_reason = reason
        self.event.set()

    def _handle_events(self) -> bool:
        with self._lock:
            is_going_on = bool(super()._handle_events())
            if is_going_on and len(self.input_buffer) > self.max_pending:
                self.close(CloseReason.POLICY_VIOLATION, "too many messages waiting")
                is_going_on = False
            return is_going_on

    def _thread(self) -> None:
        try:
            super()._thread()
        except ConnectionClosed:
            pass  # the ping logic closed a closed connection
        finally:
            # The parent's thread can end without waking receive().
            self.connected = False
            self.event.set()


log = logging.getLogger(__name__)

PING_INTERVAL_S = 25
MAX_MESSAGE_BYTES = 1 << 20
READER_GRACE_S = 5.0  # time for a reader thread to notice that its socket was shut down


class Connection:
    """One upgraded connection: calls the WSGI app in its own thread and closes the descriptor."""

    def __init__(self, channel: Any, sock: socket.socket, request: Any, client: str) -> None:
        """``client``: the address for which the pool counts it."""
        self.channel = channel
        self.request = request
        self.pool: WebSocketPool = channel.server.websockets
        self.options = self.pool.options
        self.client = client
        self.sock = BridgedSocket(sock, request.leftover, self.pool.send_timeout)
        self.websocket: WebSocket | None = None
        self.thread = daemon_thread(self.run, name=f"websocket-{self.client}")

    def run(self) -> None:
        try:
            self._call_app()
        except Exception:
            log.exception("The WebSocket handler of %s failed", self.request.path)
        finally:
            self._end()

    def _end(self) -> None:
        if self.websocket and self.websocket.connected:  # flask-sock leaves it open if a handler raises
            with contextlib.suppress(ConnectionClosed):
                self.websocket.close(CloseReason.INTERNAL_ERROR)
        reader = getattr(self.websocket, "thread", None)
        if reader is not None:
            reader.join(self.pool.close_timeout)  # time for the client's closing frame
            self.sock.close()
            reader.join(READER_GRACE_S)
        self.sock.release()
        self.request.close()
        self.pool.ended(self)

    def _call_app(self) -> None:
        """Calls the whole app, so routing, cookies and the guard apply; a refusal is sent as plain HTTP."""
        head: list[Any] = []
        body: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            head[:] = [status, headers]
            return body.append

        result = self.channel.server.application(self._environ(), start_response)
        try:
            body.extend(result)
        finally:
            if hasattr(result, "close"):
                result.close()
        if head and not self.sock.has_upgraded:
            self.sock.send(plain_response(head[0], head[1], b"".join(body)))

    def _environ(self) -> dict[str, Any]:
        environ = dict(self.channel.task_class(self.channel, self.request).get_environment())
        environ["werkzeug.socket"] = self.sock  # where simple-websocket expects it
        environ[CONNECTION_KEY] = self
        environ["waitress.client_disconnected"] = lambda: self.sock.is_dead
        # No compression: short frames hardly shrink, and it costs CPU time and a 256 KB window per page.
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        return environ


def plain_response(status: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in ("content-length", "connection")]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class WebSocketPool:
    """All upgraded connections: limits their number, and ends them when the server stops."""

    def __init__(
        self,
        limit: int = 100,
        per_client: int = 32,
        send_timeout: float = 30.0,
        close_timeout: float = 2.0,
        **options: Any,
    ) -> None:
        """``options`` are passed to every :class:`WebSocket` (``ping_interval``, ``max_message_size``)."""
        self.limit = limit
        self.per_client = per_client
        self.send_timeout = send_timeout
        self.close_timeout = close_timeout
        self.options = {"ping_interval": PING_INTERVAL_S, "max_message_size": MAX_MESSAGE_BYTES, **options}
        self.live: set[Connection] = set()
        self.count = 0
        self.is_closing = False
        self._clients: dict[str, int] = {}
        self._lock = threading.Lock()

    def admit(self, client: str) -> str | None:
        """Reserves a place; otherwise returns the reason."""
        with self._lock:
            if self.is_closing:
                return "the server is stopping"
            if self.count >= self.limit:
                return "too many websockets"
            if self._clients.get(client, 0) >= self.per_client:
                return "too many websockets from this address"
            self.count += 1
            self._clients[client] = self._clients.get(client, 0) + 1
            return None

    def start(self, connection: Connection) -> None:
        """Starts an admitted connection."""
        with self._lock:
            self.live.add(connection)
        try:
            connection.thread.start()
        except RuntimeError:  # the system has no more threads
            log.warning("No thread for another WebSocket")
            connection.sock.release()
            connection.request.close()
            self.ended(connection)

    def ended(self, connection: Connection) -> None:
        """Frees the place."""
        with self._lock:
            self.live.discard(connection)
            self.count -= 1
            left = self._clients.pop(connection.client, 1) - 1
            if left:
                self._clients[connection.client] = left

    def shutdown(self, timeout: float = 5.0) -> bool:
        """Sends close frames to all, and cuts connections that do not end in time. True if every thread has ended.

        The code is 1012 (service restart): htmx's extension reconnects after it, but not after 1001.
        """
        with self._lock:
            self.is_closing = True
            live = list(self.live)
        for connection in live:
            if connection.websocket is not None:
                connection.websocket.try_close(CloseReason.SERVICE_RESTART, "the server is stopping")
                connection.websocket.mark_lost(CloseReason.SERVICE_RESTART)
        _join(live, timeout / 2)
        for connection in live:
            if connection.thread.is_alive():
                connection.sock.close()
        _join(live, timeout / 2)
        return not any(connection.thread.is_alive() for connection in live)


def _join(connections: list[Connection], timeout: float) -> None:
    """Waits for all threads, ``timeout`` seconds in total."""
    end = time.monotonic() + timeout
    for connection in connections:
        connection.thread.join(max(0.0, end - time.monotonic()))
