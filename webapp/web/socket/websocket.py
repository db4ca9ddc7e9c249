"""simple-websocket's server, safe to send on from several threads and bounded in what it keeps.

What is closed here, all seen with simple-websocket 1.1.0: a message over the limit left ``receive()`` waiting for
ever; ``send()`` had no end on a client that does not read; frames of two threads could mix; an OSError was no
ConnectionClosed; the inbox had no bound. Touched and not documented there: ``Base._thread``, ``Base._handle_events``,
``Base.handshake`` (pinned to 1.1.*; ``tests/web/test_bridge.py`` fails loudly if they change).
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Any

import simple_websocket
from simple_websocket import ConnectionClosed
from werkzeug.exceptions import BadRequest
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

CONNECTION_KEY = "roost.websocket_connection"
# Neither of the two costs a descriptor of its own, as the default (epoll, kqueue) would for every open page.
QuietSelector = getattr(selectors, "PollSelector", selectors.SelectSelector)


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
        defaults = {"thread_class": daemon_thread, "selector_class": QuietSelector}
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
