"""``/sessions``: a guest sees what it is and how to become the owner; the owner sees every session and ends others."""

from __future__ import annotations

import re
import time
from typing import Any

from flask import Blueprint, Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.services.access import owner_link
from webapp.storage.sessions import Session
from webapp.web import login
from webapp.web.guard import cookie_name, current_role, the_guard
from webapp.web.kit.page import PageContext, current_page, render_page
from webapp.web.roles import Role

blueprint = Blueprint("sessions", __name__, url_prefix="/sessions")
KEY = re.compile(r"[0-9a-f]{64}")
BROWSERS = ("Edg", "OPR", "Firefox", "Chrome", "Safari")
SYSTEMS = ("Android", "iPhone", "iPad", "Windows", "Mac OS X", "Linux")


@blueprint.get("")
def index() -> Response:
    return render_page("sessions/page.html", page_context())


@blueprint.post("/link")
def invite() -> Response:
    link = owner_link(request.url_root, the_guard().proof.new_secret())
    return render_page("sessions/page.html", page_context(link))


@blueprint.post("/leave")
def leave() -> Response:
    """Logs this browser out."""
    if g.session is not None:
        the_guard().sessions.end(g.session.key)
    return login.goodbye(cookie_name(request), "/")


@blueprint.post("/<key>/end")
def end(key: str) -> BaseResponse:
    if KEY.fullmatch(key):
        the_guard().sessions.end(key)
    return redirect(url_for("sessions.index"), 303)


@blueprint.post("/end-others")
def end_others() -> BaseResponse:
    own = g.session.key if g.session else ""
    for session in the_guard().sessions.list():
        if session.key != own:
            the_guard().sessions.end(session.key)
    return redirect(url_for("sessions.index"), 303)


def page_context(link: str = "") -> dict[str, Any]:
    """``role`` is "owner", "local" or "guest"; ``has_session``: this browser can log out. ``link`` is a new owner's
    link, for another device of the owner's."""
    page, role = current_page(), current_role()
    sessions = the_guard().sessions.list() if role is Role.OWNER else []
    return {
        "page_title": page.t("sessions.title"),
        "commands_url": "",
        "role": role.name.lower(),
        "has_session": g.session is not None,
        "rows": [session_row(page, session) for session in sessions],
        "link": link,
    }


def session_row(page: PageContext, session: Session) -> dict[str, Any]:
    return {
        "key": session.key,
        "name": device_of(session.agent) or page.t("sessions.unknown"),
        "role": session.role,
        "used": date_of(session.used_at),
        "begun": date_of(session.created_at),
        "is_own": g.session is not None and g.session.key == session.key,
    }


def date_of(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def device_of(agent: str) -> str:
    """A browser and a system out of a User-Agent; "" where it names none we know."""
    browser = next((name for name in BROWSERS if f"{name}/" in agent), "")
    system = next((name for name in SYSTEMS if name in agent), "")
    names = {"Edg": "Edge", "OPR": "Opera", "Mac OS X": "macOS"}
    return " · ".join(names.get(name, name) for name in (browser, system) if name)
