"""An accepted socket that detects TLS or plain http by its first byte; for the loop and for separate threads.

The handshake is part of the first read and never blocks: a client that starts one and sends nothing more costs as much
as any silent connection. Plain http is accepted, so that the app can redirect to https.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import threading
import time
from typing import Any

HANDSHAKE_RECORD = b"\x16"  # RFC 8446, 5.1
RECORD_BYTES = 16 << 10  # the size of the largest record; with a smaller buffer, poll() would not see the rest
RECV_BYTES = 4 * RECORD_BYTES


class TlsSocket:
    """Replaces ``sock``. With ``settimeout(0)`` no call blocks; otherwise ``recv`` and ``sendall`` do, as with a
    socket. One thread may send while another reads; OpenSSL itself does not allow that."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        self.is_tls: bool | None = None
        """None before the first byte."""
        self.wants_write = False
        """Reading continues only when something can be written (a key update that the client does not read)."""
        self._sock = sock
        self._context = context
        self._lock = threading.Lock()
        self._timeout_s: float | None = 0.0
        self._ready: bytes | OSError | None = None

    def fill(self) -> bool:
        """Reads without blocking; False while a record or the handshake is incomplete."""
        if self._ready is None:
            try:
                self._ready = self._read()
            except BlockingIOError:
                return False
            except OSError as exc:
                self._ready = exc
        return True

    def recv(self, size: int) -> bytes:
        """All available data, which may be longer than ``size``; b"" at the end."""
        deadline = self._deadline()
        while not self.fill():
            self._wait(not self.wants_write, deadline)
        ready, self._ready = self._ready, None
        if isinstance(ready, OSError):
            raise ready
        return ready or b""

    def send(self, data: Any) -> int:
        """Sends a part of ``data``. Raises BlockingIOError if nothing can be sent now; the next call must begin with
        the same data."""
        with self._lock:
            if not self.is_tls:
                return self._sock.send(data)
            try:
                return self._sock.send(memoryview(data)[:RECORD_BYTES])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError) as exc:
                raise BlockingIOError(errno.EWOULDBLOCK, "not now") from exc
            except ssl.SSLError as exc:
                raise ConnectionResetError(errno.ECONNRESET, str(exc)) from exc

    def sendall(self, data: Any) -> None:
        """The timeout applies to the whole call."""
        deadline, rest = self._deadline(), memoryview(data)
        while rest:
            try:
                rest = rest[self.send(rest) :]
            except BlockingIOError:
                self._wait(False, deadline)

    def shutdown(self, how: int) -> None:
        with self._lock:
            self._send_close_notify()
            socket.socket.shutdown(self._sock, how)  # SSLSocket.shutdown would send the rest unencrypted

    def close(self) -> None:
        with self._lock:
            self._send_close_notify()
            self._sock.close()

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def setblocking(self, is_blocking: bool) -> None:
        self._timeout_s = None if is_blocking else 0.0

    def fileno(self) -> int:
        return self._sock.fileno()

    def getsockopt(self, *arguments: int) -> Any:
        return self._sock.getsockopt(*arguments)

    def _read(self) -> bytes:
        with self._lock:
            if self.is_tls is None and not self._begin():
                return b""
            if not self.is_tls:
                return self._sock.recv(RECV_BYTES)
            self.wants_write = False
            found = bytearray()
            while len(found) <= RECV_BYTES - RECORD_BYTES:
                try:
                    record = self._sock.recv(RECORD_BYTES)
                except ssl.SSLError as exc:
                    if found:
                        break
                    if isinstance(exc, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                        self.wants_write = isinstance(exc, ssl.SSLWantWriteError)
                        raise BlockingIOError(errno.EWOULDBLOCK, "not now") from exc
                    raise ConnectionResetError(errno.ECONNRESET, str(exc)) from exc
                found += record
                if not record:
                    break
            return bytes(found)

    def _begin(self) -> bool:
        """Reads the first byte; False if there will be none."""
        first = self._sock.recv(1, socket.MSG_PEEK)
        if first == HANDSHAKE_RECORD:
            self._sock = self._context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self.is_tls = first == HANDSHAKE_RECORD if first else None
        return bool(first)

    def _send_close_notify(self) -> None:
        """Sends close_notify; without it, clients consider a response that ends with the connection incomplete."""
        if isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._sock.unwrap()  # does not wait for the client's reply

    def _deadline(self) -> float | None:
        return None if self._timeout_s is None else time.monotonic() + self._timeout_s

    def _wait(self, for_reading: bool, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if self._timeout_s == 0.0:
            raise BlockingIOError(errno.EWOULDBLOCK, "not now")
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self._sock, select.POLLIN if for_reading else select.POLLOUT)
            poll.poll(None if left is None else left * 1000)
        else:
            reading, writing = ([self._sock], []) if for_reading else ([], [self._sock])
            select.select(reading, writing, [], left)
