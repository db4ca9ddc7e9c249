"""Files of a chat: taken in from a form or a script, shown as a page, given back as they came."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from urllib.parse import quote

from flask import Blueprint, Response, make_response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.i18n import translate_error
from webapp.services.attachments.attachments import FILE_BYTES, ROOM
from webapp.services.library.disk_space import size_text
from webapp.web.chat.commands import ID_CHARS, Command, Commands
from webapp.web.chat.contexts import FilePage
from webapp.web.chat.house import House, the_house
from webapp.web.chat.message_view import attached_context, reading_words
from webapp.web.guard import client_address, current_role
from webapp.web.kit.frames import FrameFields
from webapp.web.kit.page import Toast, current_locale, render_page, translator, wants_fragment

blueprint = Blueprint("attachments", __name__)
FORM_BYTES = 2 << 20
"""Of a form's fields without its files: a long message in a script of three bytes a character."""
UPLOAD_BYTES = ROOM.most_bytes + FORM_BYTES
NAME_BYTES = 1000
CHAT_HEADER = "Roost-Chat"
"""Of the answer to an upload: the chat the file is in, which may have begun with it; "" where there is none."""

_toast_numbers = itertools.count(1)


@dataclass(frozen=True)
class Taken:
    """``chat_id`` is the form's chat, or the one that began with a file."""

    chat_id: str
    refused: tuple[RoostError, ...] = ()
    is_new_chat: bool = False


@blueprint.post("/chat/attach")
def attach() -> Response | BaseResponse:
    """``file``, once or more often, for the next message of ``chat``; the panel's fields where that has not begun."""
    request.max_content_length = UPLOAD_BYTES
    request.max_form_memory_size = FORM_BYTES
    taken = take_files(the_house(), FrameFields(dict(request.form.items())))
    if not wants_fragment():
        return redirect(f"/chat/{taken.chat_id}" if taken.chat_id else "/", 303)
    t = translator(current_locale())
    context = {"attached": attached_context(the_house(), t, taken.chat_id), "toasts": _toasts(taken.refused)}
    status = max((error.status for error in taken.refused), default=200)
    response = render_page("chat/_uploaded.html", context, status=status)
    response.headers[CHAT_HEADER] = taken.chat_id
    return response


@blueprint.get("/chat/<chat_id>/files/<attachment_id>")
def file(chat_id: str, attachment_id: str) -> Response:
    """The text as it was attached."""
    house, t = the_house(), translator(current_locale())
    found = house.files.store.get(chat_id, attachment_id)
    page = FilePage(
        page_title=found.name,
        commands_url="/chat/do",
        name=found.name,
        facts=(size_text(found.size_bytes), reading_words(found.as_attached, t)),
        text=house.files.store.text(chat_id, attachment_id),
        back_url=f"/chat/{chat_id}",
        download_url=f"/chat/{chat_id}/files/{attachment_id}/download",
    )
    return render_page("chat/file.html", page)


@blueprint.get("/chat/<chat_id>/files/<attachment_id>/download")
def download(chat_id: str, attachment_id: str) -> Response:
    """In UTF-8, whatever it came in."""
    store = the_house().files.store
    headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
    response = make_response(store.text(chat_id, attachment_id), headers)
    name = store.get(chat_id, attachment_id).name
    response.headers.set("Content-Disposition", "attachment", **file_name_options(name))
    return response


def take_files(house: House, fields: FrameFields) -> Taken:
    """The files of the request's form. ``fields`` get the chat that begins with the first of them."""
    commands = Commands(house, client_address(), current_role)
    taken = Taken(fields.text("chat", ID_CHARS, ""))
    for upload in request.files.getlist("file"):
        if not upload.filename:  # a form whose file field was left empty
            continue
        data = upload.stream.read(FILE_BYTES + 1)
        try:
            command = Command("attach", "", taken.chat_id, fields)
            outcome = commands.attach(command, upload.filename[:NAME_BYTES], data)
        except RoostError as exc:
            taken = replace(taken, refused=(*taken.refused, exc))
        else:
            taken = replace(taken, chat_id=outcome.chat_id, is_new_chat=taken.is_new_chat or outcome.is_new_chat)
            fields.values["chat"] = outcome.chat_id
    return taken


def _toasts(errors: tuple[RoostError, ...]) -> tuple[Toast, ...]:
    return tuple(
        Toast(f"f{next(_toast_numbers)}", *translate_error(error, current_locale()), is_error=True, code=error.code)
        for error in errors
    )


def file_name_options(name: str) -> dict[str, str]:
    """Headers are Latin-1: another script goes into ``filename*`` (RFC 6266), an ASCII stand-in into ``filename``."""
    if name.isascii():
        return {"filename": name}
    plain = name.encode("ascii", "ignore").decode().lstrip(" .-")
    return {"filename": plain if "." in plain else f"chat.{plain}", "filename*": f"UTF-8''{quote(name, safe='')}"}
