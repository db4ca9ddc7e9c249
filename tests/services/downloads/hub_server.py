"""A local hub with programmed errors; it listens only on the loopback address."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubServer:
    """``files``: content by path in the repository; ``misbehave``: responses instead of it, for one request each.

    A behaviour is called with the handler; it answers and returns None, or returns True to have the file sent as usual.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.behaviours: list[Callable[[Any], bool | None]] = []
        self.etag = ""
        self.tells_sha256 = True
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                behaviour = hub.behaviours.pop(0) if hub.behaviours else None
                if behaviour is None or behaviour(self):
                    hub.send(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # clients may disconnect

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def content(self, path: str) -> bytes | None:
        return self.files.get(path.partition("/resolve/main/")[2].partition("?")[0])

    def send(
        self, handler: Any, status: int = 0, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        """Sends the file from the requested position; only its first ``cut`` bytes."""
        if handler.path.startswith("/api/models/"):
            return self._send_listing(handler)
        content = self.content(handler.path)
        if content is None:
            return answer(404)(handler)
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(content) and start:
            return answer(416, {"Content-Range": f"bytes */{len(content)}"})(handler)
        digest = hashlib.sha256(content).hexdigest()
        handler.send_response(status or (206 if start else 200))
        handler.send_header("Content-Type", "application/octet-stream")
        handler.send_header("ETag", f'"{self.etag or digest if self.tells_sha256 or self.etag else "v1"}"')
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in (headers or {"Content-Length": str(len(content) - start)}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content[start:] if cut is None else content[start : start + cut])
        if cut is not None:
            handler.close_connection = True

    def _send_listing(self, handler: Any) -> None:
        rows = [
            {"type": "file", "path": path, "size": len(data), "lfs": {"oid": hashlib.sha256(data).hexdigest()}}
            for path, data in self.files.items()
        ]
        answer(200, {"Content-Type": "application/json"}, json.dumps(rows).encode())(handler)


def answer(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Callable[[Any], None]:
    def behave(handler: Any) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def disconnect(handler: Any) -> None:
    handler.close_connection = True
    handler.connection.close()
