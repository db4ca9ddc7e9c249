"""Pages of other origins that may call the APIs, where the operator has listed them; nothing else crosses origins."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flask import Request, Response, request

from webapp.errors import SettingsError
from webapp.web.api.operations import is_api_path

ORIGIN = re.compile(r"https?://[^/\s*]+")
HEADERS = "authorization, content-type, x-api-key, anthropic-version, anthropic-dangerous-direct-browser-access"


class Cors:
    """SettingsError for an entry that is no exact origin; there is no wildcard. Cookies are never allowed along: a
    listed page shows the token, where one is needed."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)
        for origin in self._origins:
            if not ORIGIN.fullmatch(origin):
                reason = "an origin is http(s)://host or http(s)://host:port, without a path"
                raise SettingsError(name="cors_origins", value=origin, reason=reason)

    def is_listed_page(self, asked: Request) -> bool:
        """The request comes from such a page and goes to an API, not to a page or a socket."""
        is_socket = "Upgrade" in asked.headers
        return asked.headers.get("Origin") in self._origins and is_api_path(asked.path) and not is_socket

    def is_preflight(self, asked: Request) -> bool:
        is_asking = "Access-Control-Request-Method" in asked.headers
        return asked.method == "OPTIONS" and is_asking and self.is_listed_page(asked)

    def answer_preflight(self) -> Response:
        response = Response(status=204)
        # official clients send x-stainless-… headers of their own
        asked = request.headers.get("Access-Control-Request-Headers", "")
        response.headers["Access-Control-Allow-Headers"] = (
            asked if re.fullmatch(r"[\w\-, ]{1,2000}", asked) else HEADERS
        )
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
        response.headers["Access-Control-Max-Age"] = "600"
        return response

    def add_headers(self, response: Response) -> Response:
        if self._origins and is_api_path(request.path):
            response.vary.add("Origin")
        if self.is_listed_page(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = "Retry-After"
        return response
