"""The headers every answer carries. A view may set its own first (a file a user uploaded needs a sandbox)."""

from __future__ import annotations

from flask import Response

# Nothing from another host, no inline script or style, no eval. `ws:` is named because not every browser counts it
# under 'self'.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self' {sockets}; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "object-src 'none'"
)
FIXED_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it the page's own forms would say "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def add_security_headers(response: Response, host: str | None) -> Response:
    """``host`` is the checked Host header; None when it was not one of ours, so that it is not repeated."""
    sockets = f"ws://{host} wss://{host}" if host else ""
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY.format(sockets=sockets))
    for name, value in FIXED_HEADERS.items():
        response.headers.setdefault(name, value)
    return response
