"""A waitress connection that can become a WebSocket and that drops a client which takes nothing.

A request with ``Upgrade: websocket`` never reaches waitress' workers: its channel leaves the loop, and its socket goes
to a thread of its own (:mod:`webapp.web.socket.pool`), which calls the WSGI app as usual.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.utilities import Error

from webapp.web.socket.pool import Connection


class ServiceUnavailable(Error):  # type: ignore[misc]
    """An ordinary 503, written by one of waitress' workers."""

    code = 503
    reason = "Service Unavailable"


class UpgradeParser(HTTPRequestParser):  # type: ignore[misc]
    """Tells its channel when the request it has read is a WebSocket handshake."""

    def __init__(self, adj: Any, channel: WebSocketChannel) -> None:
        super().__init__(adj)
        self.channel = channel
        self.leftover = b""

    def received(self, data: bytes) -> int:
        consumed = int(super().received(data))
        if not self._is_handshake():
            return consumed
        self.empty = True  # so the channel does not queue it for a worker
        self.leftover = data[consumed:]  # frames: no more HTTP follows on this connection
        self.channel.handshake = self
        return len(data)

    def _is_handshake(self) -> bool:
        if not self.completed or self.error or self.empty:
            return False
        has_body = bool(self.content_length or self.chunked)
        return (
            (self.command, self.version) == ("GET", "1.1")
            and not has_body
            and "websocket" in _tokens(self.headers.get("UPGRADE", ""))
            and "upgrade" in _tokens(self.headers.get("CONNECTION", ""))
        )


def _tokens(header: str) -> set[str]:
    return {token.strip().lower() for token in header.split(",")}


class WebSocketChannel(HTTPChannel):  # type: ignore[misc]
    """waitress' channel, which can leave the loop and which drops a client that takes nothing."""

    handshake: UpgradeParser | None = None  # waits for its turn to be upgraded
    socket: Any
    is_detached = False
    _stalled_since: float | None = None

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        self.parser_class = functools.partial(UpgradeParser, channel=self)
        super().__init__(server, sock, addr, adj, map=map)

    def received(self, data: bytes) -> bool:
        result = bool(super().received(data))
        self._upgrade_if_possible()
        return result

    def readable(self) -> bool:
        return self.handshake is None and bool(super().readable())

    def writable(self) -> bool:
        """Asked by the loop each time round (every second at least), so also after earlier requests have ended."""
        self._upgrade_if_possible()
        if self._takes_nothing():
            self.handle_close()
        return not self.is_detached and self.socket is not None and bool(super().writable())

    def _takes_nothing(self) -> bool:
        """True when no byte of waiting output went out for the send timeout.

        waitress itself would keep such a client, and the worker that writes to it, for ever. Counted from when output
        was first seen waiting, not from the last activity, which is old after a long silence of the app.
        """
        if not self.total_outbufs_len:
            self._stalled_since = None
            return False
        if self._stalled_since is None:
            self._stalled_since = time.time()
        since = max(self._stalled_since, self.last_activity)
        return bool(time.time() - since > self.server.websockets.send_timeout)

    def _upgrade_if_possible(self) -> None:
        """In the loop's thread only; earlier requests on this connection are answered first."""
        if self.handshake is None or self.is_detached or self._is_busy_or_ending():
            return
        refused = self.server.websockets.admit(self.addr[0])
        if refused:
            self._answer_refusal(self.handshake, refused)
        else:
            self._leave_loop(self.handshake)

    def _is_busy_or_ending(self) -> bool:
        is_busy = self.requests or self.total_outbufs_len
        return bool(is_busy or self.will_close or self.close_when_flushed or not self.connected)

    def _answer_refusal(self, handshake: UpgradeParser, reason: str) -> None:
        handshake.empty = False
        handshake.error = ServiceUnavailable(reason)
        with self.requests_lock:
            self.handshake = None
            self.requests.append(handshake)
            self.server.add_task(self)

    def _leave_loop(self, handshake: UpgradeParser) -> None:
        self.is_detached = True
        self.del_channel()
        sock, self.socket = self.socket, None
        self.connected = False
        self.server.websockets.start(Connection(self, sock, handshake))

    # The loop may still hold an event for a channel that has just left it.
    def handle_read(self) -> None:
        if not self.is_detached:
            super().handle_read()

    def handle_write(self) -> None:
        if not self.is_detached:
            super().handle_write()

    def handle_expt_event(self) -> None:
        if not self.is_detached:
            super().handle_expt_event()

    def handle_close(self) -> None:
        if not self.is_detached:
            super().handle_close()
