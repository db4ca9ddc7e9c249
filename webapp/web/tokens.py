"""``/tokens``: the owner creates tokens for programs, sees when each was last used, and revokes them."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.storage.records import OWNER_ID
from webapp.storage.tokens import SCOPES, ApiToken
from webapp.web.guard import the_guard
from webapp.web.kit.page import PageContext, current_page, moment_text, render_page

blueprint = Blueprint("tokens", __name__, url_prefix="/tokens")


@blueprint.get("")
def index() -> Response:
    return render_page("tokens/page.html", page_context())


@blueprint.post("")
def make() -> Response:
    """Shows the token, only this once."""
    guard, form = the_guard(), request.form
    try:
        person = guard.people.find(form.get("person", OWNER_ID)) or guard.people.owner
        secret = guard.tokens.make(form.get("name", ""), tuple(form.getlist("scope")), person.id)
    except RoostError as exc:
        return render_page("tokens/page.html", page_context(error=current_page().sentences(exc)), status=422)
    return render_page("tokens/page.html", page_context(secret))


@blueprint.post("/<token_id>/revoke")
def revoke(token_id: str) -> BaseResponse:
    the_guard().tokens.revoke(token_id)
    return redirect(url_for("tokens.index"), 303)


def page_context(secret: str = "", error: str = "") -> dict[str, Any]:
    """``people``: the possible persons of a token, the owner first; ``typed``: the input of a refused form."""
    page, guard = current_page(), the_guard()
    people = [
        person for person in guard.people.list() if person.revoked_at is None and (person.name or person.is_owner)
    ]
    return {
        "page_title": page.t("tokens.title"),
        "commands_url": "",
        "rows": [token_row(page, token) for token in guard.tokens.list()],
        "people": [(person.id, person.name or page.t("tokens.owner")) for person in people],
        "scopes": SCOPES,
        "secret": secret,
        "error": error,
        "typed": request.form if error else {},
    }


def token_row(page: PageContext, token: ApiToken) -> dict[str, Any]:
    person = the_guard().people.find(token.person_id)
    return {
        "id": token.id,
        "name": token.name,
        "scopes": [page.t(f"tokens.scope.{scope}") for scope in token.scopes],
        "person": "" if person is None or person.is_owner else person.name or page.t("tokens.guest"),
        "used": page.t("tokens.used", date=moment_text(token.used_at)) if token.used_at else page.t("tokens.unused"),
        "created": moment_text(token.created_at),
    }
