"""simple-websocket's server with thread-safe sending and limited memory, and the pool of upgraded connections.

What is closed here, all seen with simple-websocket 1.1.0: a message over the limit left ``receive()`` waiting for
ever; ``send()`` had no end on a client that does not read; frames of two threads could mix; an OSError was no
ConnectionClosed; the inbox had no bound. Touched and not documented there: ``Base._thread``, ``Base._handle_events``,
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
# Neither of the two costs a descriptor of its own, as the default (epoll, kqueue) would for every open page.
QuietSelector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class RecordSelector(QuietSelector):  # type: ignore[misc, valid-type]
    """Of one :class:`BridgedSocket`, which is ready when it has something to read: a part of a TLS record is nothing,
    and whoever waited for the rest of it would send no pings."""

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
    """Sends all or ends the connection; ``close()`` only shuts it down.

    Were the descriptor closed at once, the system could give its number to another connection while a thread of
    this one still names it. :meth:`release` closes it, once, when no thread uses it any more.
    """

    def __init__(self, sock: socket.socket, leftover: bytes = b"", send_timeout: float = 30.0) -> None:
        self.leftover = leftover  # frames the client sent together with its handshake
        self.has_upgraded = False  # a 101 has been sent
        self.is_dead = False
        self._sock = sock
        self._send_lock = threading.Lock()
        sock.settimeout(send_timeout)  # for sendall, the whole call

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes) -> int:
        """All of ``data``, or OSError and the connection is over: half a frame cannot be continued."""
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
            # The timeout is meant for sending; a reader just waits on.
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
    """What a flask-sock handler gets. Under a server without the bridge (werkzeug's) it behaves like its parent.

    ``send`` may block for the send timeout, so never call it from a thread that others wait for. ``receive`` raises
    ConnectionClosed when the client is gone; a handler that waits on something else looks at ``connected``.
    """

    connected: bool
    max_pending = 64  # messages received and not yet taken by the handler

    def __init__(self, environ: dict[str, Any], **options: Any) -> None:
        self._lock = threading.RLock()
        connection = environ.get(CONNECTION_KEY)
        defaults = {"thread_class": daemon_thread, "selector_class": RecordSelector}
        bridged = connection.options if connection else {}
        try:
            super().__init__(environ, **{**defaults, **bridged, **options})
        except RemoteProtocolError as exc:  # no key, or another version of the protocol
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
        """Says goodbye if that is possible without waiting: no send under way, room in the socket's buffer."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self.connected and self.sock.can_send_now():
                with contextlib.suppress(ConnectionClosed):
                    self.close(reason, message)
        finally:
            self._lock.release()

    def mark_lost(self, reason: Any = CloseReason.ABNORMAL_CLOSURE) -> None:
        """Ends the handler's ``receive`` and ``send``, without a word to the client."""
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
            pass  # the ping logic closed what was closed already
        finally:
            # The parent can end without waking receive().
            self.connected = False
            self.event.set()


log = logging.getLogger(__name__)

PING_INTERVAL_S = 25
MAX_MESSAGE_BYTES = 1 << 20
READER_GRACE_S = 5.0  # for a reader thread to notice that its socket was shut down


class Connection:
    """One upgraded connection: calls the WSGI app in a thread of its own and alone closes the descriptor."""

    def __init__(self, channel: Any, sock: socket.socket, request: Any, client: str) -> None:
        """``client`` is the address that the pool counts it for."""
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
        if self.websocket and self.websocket.connected:  # flask-sock leaves it open when a handler raises
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
        """The whole app, so routing, cookies and the guard apply; what it refuses is answered as plain HTTP."""
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
        environ["werkzeug.socket"] = self.sock  # where simple-websocket looks for it
        environ[CONNECTION_KEY] = self
        environ["waitress.client_disconnected"] = lambda: self.sock.is_dead
        # No deflate: on short frames it costs CPU and a 256 KB window for each page, and saves nothing.
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        return environ


def plain_response(status: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in ("content-length", "connection")]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class WebSocketPool:
    """All upgraded connections: how many there may be, and their end when the server stops."""

    def __init__(
        self,
        limit: int = 100,
        per_client: int = 32,
        send_timeout: float = 30.0,
        close_timeout: float = 2.0,
        **options: Any,
    ) -> None:
        """``options`` go to every :class:`WebSocket` (``ping_interval``, ``max_message_size``)."""
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
        """Reserves a place, or says why there is none."""
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
        """Runs an admitted connection."""
        with self._lock:
            self.live.add(connection)
        try:
            connection.thread.start()
        except RuntimeError:  # the system gives no more threads
            log.warning("No thread for another WebSocket")
            connection.sock.release()
            connection.request.close()
            self.ended(connection)

    def ended(self, connection: Connection) -> None:
        """Gives the place back."""
        with self._lock:
            self.live.discard(connection)
            self.count -= 1
            left = self._clients.pop(connection.client, 1) - 1
            if left:
                self._clients[connection.client] = left

    def shutdown(self, timeout: float = 5.0) -> bool:
        """Says goodbye to all, cuts those that do not end in time; True when every thread has ended.

        The code is 1012 (service restart): htmx's extension reconnects on it, and not on 1001.
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
    """Waits for the threads, ``timeout`` seconds for all together."""
    end = time.monotonic() + timeout
    for connection in connections:
        connection.thread.join(max(0.0, end - time.monotonic()))
