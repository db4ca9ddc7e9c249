"""An upgraded connection and the pool of all of them."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import Any

from simple_websocket import ConnectionClosed
from waitress.task import WSGITask
from wsproto.frame_protocol import CloseReason

from webapp.web.socket.websocket import CONNECTION_KEY, BridgedSocket, WebSocket, daemon_thread

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
        environ = dict(WSGITask(self.channel, self.request).get_environment())
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
