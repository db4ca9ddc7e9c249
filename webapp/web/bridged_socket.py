"""The socket of an upgraded connection, as simple-websocket sees it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

# Neither of the two costs a descriptor of its own, as the default (epoll, kqueue) would for every open page.
QuietSelector = getattr(selectors, "PollSelector", selectors.SelectSelector)


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
