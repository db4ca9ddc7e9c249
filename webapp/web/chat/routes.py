"""Pages and downloads of the chat, and POST for every command: the page works without its socket too."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from flask import Blueprint, Response, make_response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import ChatNotFound, RoostError
from webapp.i18n import translate_error
from webapp.storage.records import Chat
from webapp.web.chat.attachment_routes import FORM_BYTES, file_name_options, take_files
from webapp.web.chat.attachment_routes import blueprint as attachments
from webapp.web.chat.commands import Commands, read_command
from webapp.web.chat.house import House, the_house
from webapp.web.chat.options_form import NEW_CHAT
from webapp.web.chat.page_view import PAGE, chat_list, chat_page, conversation, search_results, title_of
from webapp.web.chat.socket import address
from webapp.web.guard import client_address, current_role
from webapp.web.kit.frames import FrameFields
from webapp.web.kit.page import Toast, current_locale, render_page, translator, wants_fragment

blueprint = Blueprint("chat", __name__)
blueprint.register_blueprint(attachments)
DEEDS = ("message_deleted", "chat_deleted")
QUERY_CHARS = 200


@blueprint.get("/")
def index() -> Response:
    """A chat that begins with its first message."""
    return show()


@blueprint.get("/chat/<chat_id>")
def chat(chat_id: str) -> Response:
    return show(chat_id)


def show(chat_id: str = "", toasts: tuple[Toast, ...] = (), status: int = 200, text: str = "") -> Response:
    locale, house = current_locale(), the_house()
    found = house.store.get(chat_id) if chat_id else new_chat(house)
    at = request.args.get("at", "")[:64]
    page = chat_page(house, translator(locale), locale, found, at, (*undo_toast(locale), *toasts), text)
    return render_page("chat/page.html", page, status=status)


def new_chat(house: House) -> Chat:
    """With the preset the address names, if there is one."""
    preset_id = request.args.get("preset", "")[:64]
    known = {preset.id for preset in house.presets.list()} if preset_id else set()
    return replace(NEW_CHAT, preset_id=preset_id) if preset_id in known else NEW_CHAT


@blueprint.get("/chats")
def chats() -> Response | BaseResponse:
    """What a search found (``q``), or a longer list (``count``), as fragments."""
    house, t = the_house(), translator(current_locale())
    if "q" in request.args:
        results = search_results(house, t, request.args["q"][:QUERY_CHARS])
        return render_page("chat/search.html", {"results": results}, "chat/_search_results.html")
    if not wants_fragment():
        return redirect("/", 303)
    current = request.headers.get("HX-Current-URL", "").rpartition("/chat/")[2].partition("?")[0]
    count = request.args.get("count", PAGE, type=int)
    return render_page("chat/_list.html", {"chats": chat_list(house, t, current, count)})


@blueprint.get("/chat/<chat_id>/older")
def older(chat_id: str) -> Response | BaseResponse:
    if not wants_fragment():
        return redirect(url_for("chat.chat", chat_id=chat_id), 303)
    house, locale = the_house(), current_locale()
    branch = house.store.branch(chat_id)
    before = request.args.get("before", "")
    found = conversation(house, translator(locale), locale, chat_id, branch, before=before)
    return render_page("chat/_older.html", {"conversation": found})


@blueprint.get("/chat/<chat_id>/export.<kind>")
def export(chat_id: str, kind: str) -> Response:
    store = the_house().store
    if kind == "md":
        body, mimetype = store.export_markdown(chat_id), "text/markdown; charset=utf-8"
    elif kind == "json":
        body = json.dumps(store.export_json(chat_id), ensure_ascii=False, indent=1)
        mimetype = "application/json; charset=utf-8"
    else:
        raise ChatNotFound()
    response = make_response(body, {"Content-Type": mimetype, "Cache-Control": "no-store"})
    title = title_of(store.get(chat_id).title, translator(current_locale()))
    name = re.sub(r"[^\w\- ]", "", title).strip() or "chat"
    response.headers.set("Content-Disposition", "attachment", **file_name_options(f"{name}.{kind}"))
    return response


@blueprint.post("/chat/do")
def do() -> Response | BaseResponse:
    """Every command, for a page whose socket is not open; answers with the page to show next. Files chosen in the form
    go along; where one is refused nothing is sent, the others and the text wait in the page."""
    request.max_form_memory_size = FORM_BYTES
    taken = take_files(the_house(), fields := FrameFields(dict(request.form.items())))
    try:
        if taken.refused:
            raise taken.refused[0]
        outcome = Commands(the_house(), client_address(), current_role).perform(read_command(fields))
    except RoostError as exc:
        message, hint = translate_error(exc, current_locale())
        shown = taken.chat_id if _exists(taken.chat_id) else ""
        toast = Toast("refused", message, hint, is_error=True, code=exc.code)
        return show(shown, (toast,), exc.status if exc.status < 500 else 422, request.form.get("text", ""))
    return redirect(address(outcome), 303)


def undo_toast(locale: str) -> tuple[Toast, ...]:
    """After a command that was posted: what was done, with the button that takes it back."""
    deed, undo = request.args.get("done", ""), request.args.get("undo", "")
    if deed not in DEEDS or not re.fullmatch(r"restore_(chat|message):\w{1,64}", undo):
        return ()
    return (Toast("done", translator(locale)(f"chat.done.{deed}"), undo=undo),)


def _exists(chat_id: str) -> bool:
    try:
        return bool(chat_id and the_house().store.get(chat_id))
    except RoostError:
        return False
