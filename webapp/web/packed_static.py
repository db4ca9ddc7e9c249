"""Static text goes over the wire packed (gzip), so that a page with all it loads stays small on a slow link.

Only files everyone may have: a page that carries something secret next to something a stranger can choose would give
the secret away by its packed length (BREACH).
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request

TEXT = ("text/", "application/javascript", "application/json", "image/svg+xml")
SMALLEST_BYTES = 500
MOST_FILES = 200


class PackedStatic:
    """Flask's own static view, its text packed once per version of a file."""

    def __init__(self, app: Flask) -> None:
        self._view: Callable[..., Any] = app.view_functions["static"]
        self._packed: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.Lock()
        app.view_functions["static"] = self.send

    def send(self, **values: Any) -> Response:
        response: Response = self._view(**values)
        if not (response.mimetype or "").startswith(TEXT):
            return response
        response.vary.add("Accept-Encoding")
        if response.status_code != 200 or "Range" in request.headers or not accepts_gzip():
            return response
        return self._pack(response)

    def _pack(self, response: Response) -> Response:
        etag = response.get_etag()[0] or ""
        packed = self._known(request.path, etag)
        if packed is None:
            response.direct_passthrough = False
            packed = self._keep(request.path, etag, response.get_data())
        if packed:
            response.close()  # the file, which need not be read any more
            response.direct_passthrough = False
            response.set_data(packed)
            response.headers["Content-Encoding"] = "gzip"
            response.set_etag(f"{etag}.gz")
        response.make_conditional(request)
        return response

    def _known(self, path: str, etag: str) -> bytes | None:
        with self._lock:
            version, packed = self._packed.get(path, ("", None))
        return packed if version == etag else None

    def _keep(self, path: str, etag: str, data: bytes) -> bytes:
        """b"" for what is not worth packing."""
        packed = gzip.compress(data, mtime=0) if len(data) >= SMALLEST_BYTES else b""
        with self._lock:
            if len(self._packed) >= MOST_FILES:
                self._packed.clear()
            self._packed[path] = (etag, packed)
        return packed


def accepts_gzip() -> bool:
    return request.accept_encodings.quality("gzip") > 0
