"""A chat as a read-only page for anyone with its link: ``/shared/<id>``. The owner manages links at ``/shared``.

The page needs no script, and only its style and a font for formulas as files. It contains no other URL of ours and
gives no access to one: the id is not a login. It shows only questions and answers.
"""

from __future__ import annotations

from datetime import timezone
from functools import cache

from flask import Blueprint, Response, current_app, make_response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.resources import resource_dir
from webapp.storage.shares import Share, Shares
from webapp.web.chat.live import ChatContext, chat_context
from webapp.web.chat.sidebars import title_of
from webapp.web.chat.views import as_written, rendered
from webapp.web.error_answers import notice_page
from webapp.web.guard import LOOPBACK_NAMES, the_guard
from webapp.web.kit.page import ID_CHARS, Values, moment_text, render_page

blueprint = Blueprint("shared", __name__, url_prefix="/shared")
MESSAGES = 500
"""Per page."""
TOASTS = ("made", "ended")
STYLES = ("tokens.css", "prose.css", "shared.css")
FONT = "vendor/roost-math.woff2"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; font-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Robots-Tag": "noindex, nofollow, noarchive",
    "Referrer-Policy": "no-referrer",
}


@blueprint.get("/style.css")
def style() -> Response:
    return make_response(_style(), {"Content-Type": "text/css; charset=utf-8", "Cache-Control": "max-age=3600"})


@cache
def _style() -> str:
    files = (resource_dir("static") / "css" / name for name in STYLES)
    return "\n".join(path.read_text(encoding="utf-8") for path in files).replace(f"../{FONT}", "formulas.woff2")


@blueprint.get("/formulas.woff2")
def font() -> Response:
    """The font for formulas; a browser requests it if the page has formulas and the device has no such font."""
    return current_app.send_static_file(FONT)


@blueprint.get("/<share_id>")
def show(share_id: str) -> Response:
    """``first``: the number of the first message to show."""
    page = chat_context()
    shares = Shares(page.database)
    share = shares.find(share_id[:ID_CHARS])
    if share is None:  # a page without the shell, which is for those who may see more
        response = notice_page(page.t("shared.gone"), page.t("shared.gone_text"), "", 404)
        response.headers["Cache-Control"] = "no-store"
    else:
        first = max(0, request.args.get("first", 0, type=int))
        note = page.t("shared.note_live" if share.is_live else "shared.note", date=_date(share.made_at))
        response = render_page("shared/chat.html", _text(page, share.title, note, shares.text(share), first))
    response.headers.update(HEADERS)
    return response


def page_to_print(page: ChatContext, chat_id: str) -> Response:
    """The whole shown branch of a chat, in the form of a shared page. Raises ChatNotFound for another person's chat."""
    chat = page.store.get(chat_id)
    messages = Shares(page.database).messages(chat_id)
    values = _text(page, chat.title, _date(chat.updated_at), messages, 0, len(messages))
    return make_response(render_page("shared/chat.html", values), {**HEADERS, "Cache-Control": "no-store"})


def _text(
    page: ChatContext, title: str, note: str, messages: list[tuple[str, str]], first: int, count: int = 0
) -> Values:
    """``shared/chat.html``; ``count`` messages, 0 for :data:`MESSAGES`. ``before`` and ``after``: where the adjacent
    parts begin, None for none."""
    count = count or MESSAGES
    rows = [
        {"is_question": role == "user", "text": text, "html": as_written(text) if role == "user" else rendered(text)}
        for role, text in messages[first : first + count]
    ]
    return {
        "title": title_of(title, page.t),
        "note": note,
        "messages": rows,
        "before": max(0, first - MESSAGES) if first else None,
        "after": first + count if len(messages) > first + count else None,
    }


@blueprint.get("")
def index() -> Response:
    """All existing links; with ``chat``, the form for a new one."""
    page, chat_id = chat_context(), request.args.get("chat", "")[:ID_CHARS]
    chat = page.store.get(chat_id) if chat_id else None
    made = request.args.get("about", "")[:ID_CHARS] if request.args.get("said") == "made" else ""
    values = {
        "page_title": page.t("shared.title"),
        "toasts": page.done_toast("shared.said", TOASTS, undo=""),
        "chat": {"id": chat.id, "title": title_of(chat.title, page.t)} if chat else None,
        "is_reachable": the_guard().is_shared,
        "rows": [_row(page, share, made) for share in Shares(page.database).all(page.person.id)],
    }
    return render_page("shared/page.html", values)


def _row(page: ChatContext, share: Share, made: str) -> Values:
    return {
        "id": share.id,
        "chat_id": share.chat_id,
        "title": title_of(share.title, page.t),
        "kind": page.t("shared.live" if share.is_live else "shared.snapshot"),
        "made": _date(share.made_at),
        "link": _link(share),
        "is_new": share.id == made,
    }


def _date(moment: float) -> str:
    return moment_text(moment, timezone.utc)


def _link(share: Share) -> str:
    """The link for others: a loopback name is replaced by this machine's address on the network."""
    root, path = request.host_url.rstrip("/"), url_for("shared.show", share_id=share.id)
    host = request.host.rpartition(":")[0] or request.host
    if the_guard().is_shared and host in LOOPBACK_NAMES:
        from webapp.web.serve import lan_addresses  # it imports the application

        found = lan_addresses(is_ipv6=False)
        port = request.host.rpartition(":")[2]
        root = f"{request.scheme}://{found[0]}:{port}" if found and port.isdecimal() else root
    return root + path


@blueprint.post("")
def make() -> BaseResponse:
    """Creates a link to ``chat``; ``kind`` is "snapshot" or "live"."""
    page, chat_id = chat_context(), request.form.get("chat", "")[:ID_CHARS]
    page.store.check(chat_id)
    made = Shares(page.database).make(chat_id, request.form.get("kind") == "live")
    return redirect(url_for("shared.index", said="made", about=made.id, _anchor="links"), 303)


@blueprint.post("/<share_id>/end")
def end(share_id: str) -> BaseResponse:
    Shares(chat_context().database).end(share_id[:ID_CHARS])
    return redirect(url_for("shared.index", said="ended"), 303)
