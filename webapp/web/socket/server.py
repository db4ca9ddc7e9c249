"""The front door: flask-sock's WebSockets and waitress' HTTP on the same port, in the same process.

waitress keeps every socket in one select or poll loop and knows no upgrade; simple-websocket (under flask-sock) wants
the raw socket. :mod:`webapp.web.socket.channel` takes an upgraded connection out of that loop.

    server = BridgeServer(app, websockets={"limit": 100}, host="127.0.0.1", port=8000)
    server.run()

This package touches what waitress does not document (pinned to >=3.0.1,<4): HTTPChannel.received, readable, writable,
handle_*, del_channel, requests, requests_lock, total_outbufs_len, last_activity; HTTPRequestParser.received and empty;
WSGITask.get_environment; BaseWSGIServer.channel_class and trigger; wasyncore.loop. ``tests/web/test_bridge.py`` fails
loudly if one of them changes.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import flask_sock
import waitress.server
from waitress import wasyncore
from waitress.channel import HTTPChannel

from webapp.web.socket.channel import WebSocketChannel
from webapp.web.socket.pool import WebSocketPool
from webapp.web.socket.websocket import WebSocket


class BridgeServer:
    """waitress' listeners with a ``run`` that also ends the websockets, and a ``stop``."""

    def __init__(self, app: Any, websockets: dict[str, Any] | None = None, **adjustments: Any) -> None:
        """``websockets``: arguments of :class:`WebSocketPool`; ``adjustments``: waitress' own. Binds at once."""
        # flask-sock calls this module-level name; a subclass of Sock would have to copy its route().
        flask_sock.Server = WebSocket
        # Without a lookahead a vanished client goes unnoticed; select() dies on descriptors >= 1024.
        adjustments = {"channel_request_lookahead": 1, "asyncore_use_poll": True, **adjustments}
        self.websockets = WebSocketPool(**(websockets or {}))
        self._map: dict[int, Any] = {}
        self._inner = waitress.server.create_server(app, map=self._map, **adjustments)
        self._listeners = [s for s in self._map.values() if isinstance(s, waitress.server.BaseWSGIServer)]
        self._left: list[Any] = []
        self._waking = threading.Lock()
        self._is_closed = False
        for listener in self._listeners:
            listener.channel_class = WebSocketChannel
            listener.websockets = self.websockets
        self.addresses = [(str(s.effective_host), int(s.effective_port)) for s in self._listeners]

    def run(self) -> None:
        """Serves until :meth:`stop`, or until a signal handler raises SystemExit or KeyboardInterrupt in here."""
        try:
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop()
        finally:
            self.close()

    def loop(self) -> None:
        """Serves until :meth:`stop`; the caller calls :meth:`close`."""
        adjustments = self._inner.adj
        wasyncore.loop(adjustments.asyncore_loop_timeout, adjustments.asyncore_use_poll, self._map)

    def stop(self) -> None:
        """From any thread; not from a signal handler, which may interrupt the holder of the lock taken here."""
        with self._waking:  # the loop may leave before the wake-up call is out, and close what the call goes to
            if not self._is_closed:
                self._listeners[0].trigger.pull_trigger(self._leave)

    def _leave(self) -> None:
        """An empty map ends the loop."""
        self._left += self._map.values()
        self._map.clear()

    def close(self) -> None:
        """No new connections, websockets first, then the workers; a few seconds at most."""
        self._leave()
        for listener in self._listeners:
            listener.socket.close()
        self.websockets.shutdown()
        for channel in self._left:
            if isinstance(channel, HTTPChannel):
                channel.handle_close()  # wakes a worker that waits for this client to read
        workers = self._inner.task_dispatcher
        workers.shutdown()
        if not workers.threads:
            # With a worker left, its late wake-up call would go to a descriptor number that others may own by then.
            with self._waking:
                self._is_closed = True
                for listener in self._listeners:
                    listener.trigger.close()
