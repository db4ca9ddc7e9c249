"""``GET /metrics`` in Prometheus' text format."""

from __future__ import annotations

from flask import Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST

from webapp.web.api.counting import Counting


def show() -> Response:
    counting: Counting = current_app.extensions["api_counting"]
    return Response(counting.text(), content_type=CONTENT_TYPE_LATEST)
