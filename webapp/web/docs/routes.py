"""``GET /docs``. The dialects' types are imported when somebody looks, not at start."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request

from webapp.web.fragments import current_locale, render_page, translator

blueprint = Blueprint("docs", __name__)


@blueprint.get("/docs")
def index() -> Response:
    from webapp.web.docs.page_view import page_context

    extensions = current_app.extensions
    address = request.host_url.rstrip("/")
    status = extensions["model_manager"].status()
    has_token = bool(extensions["guard"].token)
    t = translator(current_locale())
    return render_page("docs/page.html", page_context(t, extensions["settings"], address, status.model, has_token))
