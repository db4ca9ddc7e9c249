"""One connection: a waitress channel that can stop reading, and that can become a WebSocket.

- A body is accepted or refused when the headers are complete, before any of it is stored.
- Headers and bodies that arrive too slowly get 408; a client that reads nothing is disconnected.
- After an early response the rest of the input is discarded before the socket is closed. If it were closed at once, the
  system would send a reset, and the client would lose the response.
- A request with ``Upgrade: websocket`` never reaches waitress' workers: its channel leaves the loop, and its socket
  gets its own thread (:mod:`webapp.web.socket.websocket`), which calls the WSGI app as usual.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from typing import Any

from msgspec import Struct
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.receiver import ChunkedReceiver
from waitress.task import WSGITask
from waitress.utilities import BadRequest, Error

from webapp.errors import RoostError
from webapp.web.peer import REFUSAL_KEY, address_key
from webapp.web.socket.tls import TlsSocket
from webapp.web.socket.websocket import Connection

CHUNK_LINE_BYTES = 8 << 10
TRAILER_BYTES = 32 << 10
DISCARD_BYTES = 256 << 10


class Limits(Struct, frozen=True):
    """A request over its deadline gets 408; a connection over the limit gets 503.

    The deadline of a body is ``body_grace_s`` plus its time at ``body_bytes_per_s`` (Apache's mod_reqtimeout gives 20
    seconds and 500 bytes per second). After an early response that ends the connection, input is discarded for at most
    ``linger_s``, or until the client has been silent for ``linger_silence_s`` (nginx' lingering_close).
    """

    connections: int = 512
    per_address: int = 128
    header_s: float = 20.0
    body_grace_s: float = 20.0
    body_bytes_per_s: float = 1024.0
    linger_s: float = 10.0
    linger_silence_s: float = 2.0


class ServiceUnavailable(Error):  # type: ignore[misc]
    code = 503
    reason = "Service Unavailable"


class RequestTimeout(Error):  # type: ignore[misc]
    code = 408
    reason = "Request Timeout"


class InsufficientStorage(Error):  # type: ignore[misc]
    code = 507
    reason = "Insufficient Storage"


class Task(WSGITask):  # type: ignore[misc]
    """Gives the app the reason of a refusal; then the connection ends."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        if self.channel.tls is not None and self.channel.tls.is_tls:
            environ["wsgi.url_scheme"] = "https"
        if self.request.refusal is not None:
            environ[REFUSAL_KEY] = self.request.refusal
        return environ


class RequestParser(HTTPRequestParser):  # type: ignore[misc]
    """Calls the server's gate before the first byte of a body, and reports a WebSocket handshake to its channel."""

    def __init__(self, adj: Any, channel: Channel) -> None:
        super().__init__(adj)
        self.channel = channel
        self.leftover = b""
        self.refusal: RoostError | None = None
        self.body_limit: int | None = None
        self.began = time.monotonic()  # time of the header's first byte, then of the body's

    def received(self, data: bytes) -> int:
        had_headers = self.headers_finished
        try:
            consumed = int(super().received(data))
        except OSError as exc:  # no descriptor or no disk space for the body's temporary file
            self.channel.server.door.complain("A body could not be stored: %s", exc)
            self.error = InsufficientStorage("the body could not be stored")
            self.completed, consumed = True, len(data)
        if self.headers_finished and not had_headers:
            self._headers_done(data[consumed:])
        elif had_headers:
            self._check_body()
        if self.completed:
            self.expect_continue = False  # waitress would send 100 and wait for more
        if self.error or self.refusal:
            self.channel.stop_reading()
            return len(data)
        if self._is_handshake():
            self.empty = True  # so that the channel does not queue it for a worker
            self.leftover = data[consumed:]  # frames; no more HTTP follows on this connection
            self.channel.handshake = self
            return len(data)
        return consumed

    def _headers_done(self, rest: bytes) -> None:
        """``rest``: data that arrived with the headers. If it contains the whole body, the app decides about it."""
        self.began = time.monotonic()
        is_whole = not self.chunked and self.content_length <= len(rest)
        if self.error or self.completed or is_whole:
            return
        try:
            self.body_limit = self.channel.server.door.gate(Task(self.channel, self).get_environment())
        except RoostError as exc:
            self._refuse(exc)

    def _check_body(self) -> None:
        """Checks a chunked body, whose length is not announced."""
        receiver = self.body_rcv
        if not isinstance(receiver, ChunkedReceiver) or self.error:
            return
        if self.body_limit is not None and len(receiver) > self.body_limit:
            self._refuse(RoostError("too_large", found=f"> {self.body_limit}", limit=self.body_limit))
        elif len(receiver.control_line) > CHUNK_LINE_BYTES or len(receiver.trailer) > TRAILER_BYTES:
            self.error = BadRequest("a chunk's header is too long")
            self.completed = True

    def _refuse(self, error: RoostError) -> None:
        """The app responds as if the request had no body (:data:`REFUSAL_KEY`); then the connection ends."""
        self.close()
        self.refusal, self.completed = error, True
        self.body_rcv, self.chunked, self.content_length = None, False, 0
        self.headers.pop("CONTENT_LENGTH", None)
        self.headers["CONNECTION"] = "close"

    def _is_handshake(self) -> bool:
        if not self.completed or self.empty:
            return False
        has_body = bool(self.content_length or self.chunked)
        return (
            (self.command, self.version) == ("GET", "1.1")
            and not has_body
            and "websocket" in _tokens(self.headers.get("UPGRADE", ""))
            and "upgrade" in _tokens(self.headers.get("CONNECTION", ""))
        )

    def is_late(self, limits: Limits) -> bool:
        allowed = limits.header_s
        if self.headers_finished:
            allowed = limits.body_grace_s + self.body_bytes_received / limits.body_bytes_per_s
        return time.monotonic() - self.began > allowed


def _tokens(header: str) -> set[str]:
    return {token.strip().lower() for token in header.split(",")}


class Channel(HTTPChannel):  # type: ignore[misc]
    """Methods run in the loop's thread, except waitress' ``service`` and ``write_soon``."""

    task_class = Task
    handshake: RequestParser | None = None  # will be upgraded after the requests before it
    socket: Any
    is_detached = False  # upgraded: it has left the loop
    has_stopped_reading = False  # the next response is the last
    _was_busy = False  # in the loop's previous pass
    _drain_until: float | None = None  # set when the last response has been sent
    _stalled_since: float | None = None

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        self.parser_class = functools.partial(RequestParser, channel=self)
        self.client = address_key(addr[0])
        self.tls = sock if isinstance(sock, TlsSocket) else None
        super().__init__(server, sock, addr, adj, map=map)

    def add_channel(self, map: Any = None) -> None:
        super().add_channel(map)
        self.server.places.add(self)

    def del_channel(self, map: Any = None) -> None:
        super().del_channel(map)
        self.server.places.discard(self)

    def is_idle_since(self, moment: float) -> bool:
        """True if no request is being received, processed or sent, and none was after ``moment`` (of ``time.time``)."""
        is_used = self.request or self.requests or self.handshake or self.total_outbufs_len
        return not (is_used or self.will_close or self.has_stopped_reading) and self.last_activity <= moment

    # Reading

    def received(self, data: bytes) -> bool:
        result = bool(super().received(data))
        self._upgrade_if_possible()
        return result

    def stop_reading(self) -> None:
        self.has_stopped_reading = True

    def readable(self) -> bool:
        if self.tls is not None and self.tls.wants_write:
            return False
        if self._drain_until is not None:
            return True
        return self.handshake is None and not self.has_stopped_reading and bool(super().readable())

    def writable(self) -> bool:
        """The loop calls it in each pass (at least once per second), so deadlines are checked here."""
        self._upgrade_if_possible()
        if self._accepts_nothing() or self._has_drained():
            super().handle_close()
        elif late := self._late_request():
            self._answer_error(late, RequestTimeout("the request did not arrive in time"))
        if self.is_detached or self.socket is None:
            return False
        return bool(super().writable() or (self.tls is not None and self.tls.wants_write))

    def _late_request(self) -> RequestParser | None:
        request: RequestParser | None = self.request
        if request is None or self.will_close or self.close_when_flushed:
            return None
        is_busy = bool(self.requests or self.total_outbufs_len)
        if is_busy or self._was_busy:  # during that time the loop may not read, so the client is not late
            request.began = time.monotonic()
        self._was_busy = is_busy
        return request if request.is_late(self.server.limits) else None

    def _answer_error(self, request: RequestParser, error: Error) -> None:
        """A worker sends it; then the connection ends."""
        self.stop_reading()
        request.error, request.completed, request.empty = error, True, False
        with self.requests_lock:
            self.request = self.handshake = None
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)

    # The end

    def _accepts_nothing(self) -> bool:
        """True if the client has accepted no byte of waiting output for the send timeout.

        waitress itself would keep such a client, and the worker that writes to it, forever. The time starts when output
        is first seen waiting, not at the last activity, which may be long ago if the app was silent.
        """
        if not self.total_outbufs_len:
            self._stalled_since = None
            return False
        if self._stalled_since is None:
            self._stalled_since = time.time()
        since = max(self._stalled_since, self.last_activity)
        return bool(time.time() - since > self.server.websockets.send_timeout)

    def handle_close(self) -> None:
        if self.is_detached:
            return
        if self.has_stopped_reading and self.will_close and self.connected and self._drain_until is None:
            self._drain()
        else:
            super().handle_close()

    def _drain(self) -> None:
        self.will_close = False
        self.last_activity = time.time()
        self._drain_until = time.monotonic() + self.server.limits.linger_s
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def _has_drained(self) -> bool:
        if self._drain_until is None or self.socket is None:
            return False
        is_silent = time.time() - self.last_activity > self.server.limits.linger_silence_s
        return is_silent or time.monotonic() > self._drain_until

    def _discard_input(self) -> None:
        try:
            data = self.socket.recv(DISCARD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.last_activity = time.time()
        else:
            super().handle_close()

    def abandon(self) -> None:
        """Closes the connection immediately; wakes a worker that waits for the client to read."""
        super().handle_close()

    # The upgrade

    def _upgrade_if_possible(self) -> None:
        """Waits until earlier requests on this connection have been answered."""
        if self.handshake is None or self.is_detached or self._is_busy_or_ending():
            return
        client = address_key(self.server.door.client_of(Task(self, self.handshake).get_environment()))
        refused = self.server.websockets.admit(client)
        if refused:
            self._answer_error(self.handshake, ServiceUnavailable(refused))
        else:
            self._leave_loop(self.handshake, client)

    def _is_busy_or_ending(self) -> bool:
        is_busy = self.requests or self.total_outbufs_len
        return bool(is_busy or self.will_close or self.close_when_flushed or not self.connected)

    def _leave_loop(self, handshake: RequestParser, client: str) -> None:
        self.is_detached = True
        self.del_channel()
        sock, self.socket = self.socket, None
        self.connected = False
        self.server.websockets.start(Connection(self, sock, handshake, client))

    # The loop may still have an event for a channel that has just left it.
    def handle_read(self) -> None:
        if self._drain_until is not None:
            self._discard_input()
        elif not self.is_detached and not self.has_stopped_reading and (self.tls is None or self.tls.fill()):
            super().handle_read()

    def handle_write(self) -> None:
        if self.tls is not None and self.tls.wants_write:
            self.handle_read()
        elif not self.is_detached:
            super().handle_write()

    def handle_expt_event(self) -> None:
        if not self.is_detached:
            super().handle_expt_event()
