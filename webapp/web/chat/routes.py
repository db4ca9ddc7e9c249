"""Pages, files and downloads of the chat, and POST for every command: the page also works without its socket."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import zipfile
from collections import Counter
from typing import Any, BinaryIO, cast
from urllib.parse import urlencode

from flask import Blueprint, Flask, Response, current_app, jsonify, make_response, redirect, request, send_file, url_for
from msgspec import Struct
from msgspec.structs import replace
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import ChatNotFound, RoostError
from webapp.i18n import Text, size_text
from webapp.services.attachments import DOCUMENT_BYTES
from webapp.services.chat.chat_file import ChatFiles, chat_document, chat_markdown
from webapp.services.chat.imports import LEFT_OUT, MAX_CHATS, MAX_MESSAGES
from webapp.services.chat.probes import ASIDE_TOKENS, WINDOW, AnswerTokens, ask_aside
from webapp.services.chat.side_by_side import tally
from webapp.storage.records import Chat
from webapp.web.chat.commands import (
    FOLDER_CHARS,
    MAX_FRAME_BYTES,
    TEXT_CHARS,
    Command,
    Commands,
    FrameFields,
    address_of,
    parse_frame,
    read_command,
)
from webapp.web.chat.live import ChatContext, chat_context, chat_topic, install
from webapp.web.chat.polling import PolledPages
from webapp.web.chat.sidebars import FILTERS, NEW_CHAT, PAGE, all_chats, chat_list, search_results, title_of
from webapp.web.chat.views import (
    CLASSES,
    COUNTS,
    NEEDS_MODEL,
    alternative_rows,
    attached,
    chat_page,
    conversation,
    own_model,
    reading_words,
    switcher,
    token_count,
    token_view,
)
from webapp.web.error_answers import notice_page
from webapp.web.guard import asker, current_role
from webapp.web.kit import page as kit
from webapp.web.presets.form import shown_name
from webapp.web.prompts import chat_with_persona
from webapp.web.roles import least_role
from webapp.web.shared import page_to_print

blueprint = Blueprint("chat", __name__)
attachments = Blueprint("attachments", __name__)
blueprint.record_once(lambda state: install(cast(Flask, state.app)))
blueprint.record_once(lambda state: cast(Flask, state.app).extensions.update(polled_pages=PolledPages()))
UNDOABLE = ("message_deleted", "answers_discarded", "chat_deleted", "chat_archived")
ALL_DONE = ("archive", "unarchive", "delete", "move", "restore", "none")
MAX_LISTED = 1_000_000
SPOOLED_BYTES = 8 << 20
UNDO = re.compile(r"(restore_chat|restore_message|restore_beside|unarchive_chat):\w{1,64}")
QUERY_CHARS = 200
MAX_TALLIED = 12
FORM_BYTES = 2 << 20
"""For a form's fields without files: a long message with three bytes per character."""
UPLOAD_BYTES = DOCUMENT_BYTES + FORM_BYTES
NAME_BYTES = 1000
CHAT_HEADER = "Roost-Chat"
"""Header of the response to an upload: the file's chat, which may be new; "" if there is none."""

_toast_numbers = itertools.count(1)


@blueprint.get("/")
def index() -> Response:
    """A new chat, which begins with its first message."""
    return _show(chat_context())


@blueprint.get("/chat/<chat_id>")
def chat(chat_id: str) -> Response:
    return _show(chat_context(), chat_id)


def _show(
    page: ChatContext, chat_id: str = "", toasts: tuple[kit.Toast, ...] = (), status: int = 200, text: str = ""
) -> Response:
    shown = page.store.get(chat_id) if chat_id else _new_chat(page)
    at = request.args.get("at", "")[: kit.ID_CHARS]
    toasts = (*_undo_toast(page), *_import_toast(page, chat_id), *toasts)
    return kit.render_page("chat/page.html", chat_page(page, shown, at, toasts, text), status=status)


def _new_chat(page: ChatContext) -> Chat:
    """With the persona, the preset and the state file the address names, if there are such."""
    preset_id, state = request.args.get("preset", "")[: kit.ID_CHARS], request.args.get("state", "")[:NAME_BYTES]
    is_known = bool(preset_id) and any(preset.id == preset_id for preset in page.presets.list())
    chat = chat_with_persona(page, NEW_CHAT, request.args.get("persona", "")[: kit.ID_CHARS])
    chat = replace(chat, preset_id=preset_id) if is_known else chat
    return replace(chat, state=state) if state in page.state_names() else chat


def _undo_toast(page: ChatContext) -> tuple[kit.Toast, ...]:
    """After a posted command: what was done, with an undo button."""
    done, undo = request.args.get("done", ""), request.args.get("undo", "")
    if done not in UNDOABLE or not UNDO.fullmatch(undo):
        return ()
    return (kit.Toast("done", page.t(f"chat.done.{done}"), undo=undo),)


@blueprint.get("/chat/switch")
def switch() -> Response:
    """The presets and models to choose from for ``chat``; for a chat that has not begun, ``preset`` is its panel's."""
    page, chat_id = chat_context(), request.args.get("chat", "")[: kit.ID_CHARS]
    chat = page.store.get(chat_id) if chat_id else _new_chat(page)
    shown = {"page_title": page.t("chat.switch.label"), "back_url": f"/chat/{chat_id}" if chat_id else "/"}
    return _part("chat/_switch.html", shown | {"switch": switcher(page, chat)})


@blueprint.get("/own")
def own() -> Response | BaseResponse:
    """For the welcome page: a new model in the folders. 204 if nothing is new to a page that has ``seen`` it and knows
    whether more is ``coming``."""
    found = own_model(chat_context())
    if not kit.wants_fragment():
        return redirect("/", 303)
    known = (request.args.get("seen", ""), "coming" in request.args)
    if found["is_followed"] and (found["name"], found["is_coming"]) == known:
        return Response(status=204)
    return kit.render_page("chat/_own.html", {"own": found})


@blueprint.get("/chats")
def chats() -> Response | BaseResponse:
    """Search results (``q``), or a longer list (``count``), as fragments."""
    page = chat_context()
    if "q" in request.args:
        results = search_results(page, request.args["q"][:QUERY_CHARS])
        return kit.render_page("chat/search.html", {"results": results}, "chat/_search_results.html")
    if not kit.wants_fragment():
        return redirect("/", 303)
    current = request.headers.get("HX-Current-URL", "").rpartition("/chat/")[2].partition("?")[0]
    count = request.args.get("count", PAGE, type=int)
    return kit.render_page("chat/_list.html", {"chats": chat_list(page, current, count)})


@blueprint.get("/chats/all")
def all_() -> Response:
    """Every chat, to find, move, archive or delete many at once."""
    page, args = chat_context(), request.args
    chosen = {name: args[name][:QUERY_CHARS] for name in FILTERS if args.get(name)}
    first = min(max(args.get("first", 0, type=int), 0), MAX_LISTED)
    toasts = page.done_toast("chat.all.done", ALL_DONE, args.get("undo", "")[: kit.ID_CHARS])
    return kit.render_page("chat/all.html", all_chats(page, chosen, first, toasts))


@blueprint.post("/chats/all/do")
def do_all() -> Response | BaseResponse:
    """One action for every ticked ``chat``. ``export`` returns them as a zip."""
    page, form = chat_context(), request.form
    do, _, moment = form.get("do", "").partition(":")
    chat_ids = [chat_id[: kit.ID_CHARS] for chat_id in form.getlist("chat")]
    page.store.check(*chat_ids)
    undo = None
    if do == "export" and chat_ids:
        return _zipped(page, chat_ids)
    if do == "restore":
        page.store.restore_all(_moment(moment))
    elif do == "delete":
        undo = f"restore:{page.turns.delete_all(chat_ids)!r}"
    elif do in ("archive", "unarchive"):
        page.store.place(chat_ids, is_archived=do == "archive")
    elif do == "move":
        page.store.place(chat_ids, folder=form.get("folder", "")[:FOLDER_CHARS])
    elif do != "export":
        raise RoostError("bad_frame", reason=Text("reason.web.no_command", name=repr(do[:40])))
    page.news.publish(page.list_topic, *map(chat_topic, chat_ids))
    said = do if chat_ids or do == "restore" else "none"
    shown: dict[str, Any] = {name: form.get(f"shown_{name}", "")[:QUERY_CHARS] or None for name in FILTERS}
    return redirect(url_for("chat.all_", **shown, said=said, undo=undo if chat_ids else None), 303)


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise RoostError("bad_frame", reason=Text("reason.web.no_command", name=repr(text[:40]))) from exc


def _zipped(page: ChatContext, chat_ids: list[str]) -> BaseResponse:
    """Each chat as Markdown and as JSON."""
    out = tempfile.SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115  # the answer closes it
    names: set[str] = set()
    with zipfile.ZipFile(cast(BinaryIO, out), "w", zipfile.ZIP_DEFLATED) as archive:
        for chat_id in chat_ids:
            name = kit.file_stem(title_of(page.store.get(chat_id).title, page.t), "chat")
            while name.casefold() in names:
                name += "_"
            names.add(name.casefold())
            archive.writestr(f"{name}.md", chat_markdown(page.store, chat_id))
            archive.writestr(f"{name}.json", json.dumps(chat_document(page.store, chat_id), ensure_ascii=False))
    out.seek(0)
    return send_file(cast(BinaryIO, out), "application/zip", as_attachment=True, download_name="chats.zip", max_age=0)


@blueprint.post("/chat/count")
def count() -> Response:
    """The number of tokens in the composer's ``text`` and in ``chat``, while a person types."""
    request.max_form_memory_size = FORM_BYTES
    page, chat_id = chat_context(), request.form.get("chat", "")[: kit.ID_CHARS]
    chat = page.store.get(chat_id) if chat_id else NEW_CHAT
    values = token_count(page, chat, request.form.get("text", "")[:TEXT_CHARS])
    return kit.render_page("chat/_count.html", {"count": values})


@blueprint.get("/chat/several/<message_id>")
def several(message_id: str) -> Response:
    """Ways to ask this answer's question again; ``off`` closes it."""
    if "off" in request.args:
        return kit.render_page("chat/_several.html", {"id": message_id, "is_shown": False})
    page = chat_context()
    stored = page.store.message(message_id)
    t = page.t
    presets = [(f"preset:{preset.id}", shown_name(preset, t)) for preset in page.presets.list()]
    models = [(f"model:{file.name}", file.name) for file in page.manager.library.known_files()]
    states = [("state:", t("chat.several.no_state")), *((f"state:{name}", name) for name in page.state_names())]
    groups = [(t("chat.several.presets"), presets), (t("chat.several.models"), models)]
    groups += [(t("chat.several.states"), states)] if len(states) > 1 else []
    votes = [
        t("chat.several.tally", name=row.variant.label, won=row.won, count=row.count)
        for row in tally(page.store)[:MAX_TALLIED]
    ]
    values = {
        "page_title": t("chat.several.label"),
        "back_url": f"/chat/{stored.chat_id}",
        "id": message_id,
        "chat_id": stored.chat_id,
        "is_shown": True,
        "counts": COUNTS[1:],
        "groups": groups,
        "first": f"preset:{page.presets.of_chat(page.store.get(stored.chat_id)).id}",
        "model": page.status.model,
        "votes": votes,
    }
    return _part("chat/_several.html", values)


@blueprint.get("/chat/tokens/<message_id>")
def tokens(message_id: str) -> Response:
    """An answer's tokens from ``from`` on; ``at``: the alternatives to one of them; ``off`` closes it."""
    page, at = chat_context(), request.args.get("at", type=int)
    if "off" in request.args:
        return kit.render_page("chat/_tokens.html", {"id": message_id, "is_shown": False})
    if at is not None and kit.wants_fragment():
        return kit.render_page("chat/_alternatives.html", {"found": alternatives_view(page, message_id, at)})
    values = token_page(page, message_id, request.args.get("from", 0, type=int))
    if at is not None:
        values["found"] = alternatives_view(page, message_id, at)
    return _part("chat/_tokens.html", values)


def token_page(page: ChatContext, message_id: str, start: int) -> kit.Values:
    """``chat/tokens.html``, and its part ``chat/_tokens.html``: an answer's tokens by probability, from ``start`` on.
    ``failure``: why they cannot be shown."""
    stored = page.store.message(message_id)
    view: kit.Values = {
        "page_title": page.t("chat.tokens.label"),
        "back_url": f"/chat/{stored.chat_id}",
        "id": message_id,
        "is_shown": True,
        "needs_model": False,
    }
    try:
        found = AnswerTokens(page.manager, page.store, page.presets).window(message_id, start)
    except RoostError as exc:
        message, hint = page.explain(exc)
        needs_model = exc.code in NEEDS_MODEL | {"answer_of_another_model"}
        return {**view, "failure": {"message": message, "hint": hint, "needs_model": needs_model}}
    end = found.start + len(found.tokens)
    return view | {
        "tokens": [token_view(token, place) for place, token in enumerate(found.tokens, found.start)],
        "start": found.start,
        "end": end,
        "total": found.total,
        "before": max(0, found.start - WINDOW),
        "is_end": end >= found.total,
        "levels": len(CLASSES),
    }


def alternatives_view(page: ChatContext, message_id: str, place: int) -> kit.Values:
    """``chat/_alternatives.html``: possible tokens at this position, likeliest first, with the actual one."""
    view: kit.Values = {"id": message_id, "place": place}
    try:
        own, best = AnswerTokens(page.manager, page.store, page.presets).alternatives(message_id, place)
    except RoostError as exc:
        message, hint = page.explain(exc)
        return {**view, "failure": {"message": message, "hint": hint}}
    return view | {"rows": alternative_rows(own, best, place, f"fork:{message_id}")}


PREVIEW = """<!doctype html><title>-</title><script>
const show = (event) => { document.open(); document.write(event.data); document.close(); };
addEventListener("message", show, { once: true });
parent.postMessage("ready", "*");
</script>"""
PREVIEW_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; media-src data: blob:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'self'"
)
"""Its own origin and no network. The page's own ``frame-src`` prevents the frame from opening another URL."""


@blueprint.get("/preview")
def preview() -> Response:
    """The empty frame in which ``static/js/preview.js`` shows HTML or SVG from an answer. Not ``srcdoc``, which would
    inherit the page's policy and block the styles and scripts of a model's page."""
    headers = {"Content-Security-Policy": PREVIEW_POLICY, "X-Frame-Options": "SAMEORIGIN"}
    return make_response(PREVIEW, {**headers, "X-DNS-Prefetch-Control": "off", "Cache-Control": "max-age=3600"})


@blueprint.get("/sw.js")
def service_worker() -> Response:
    """At the root, because a service worker only controls URLs below its own."""
    response = current_app.send_static_file("js/sw.js")
    response.headers["Cache-Control"] = "no-cache"
    return response


@blueprint.get("/offline")
def offline() -> Response:
    """A page that the browser stores and shows while the server is not reachable."""
    t = kit.translator(kit.current_locale())
    return notice_page(t("offline.title"), t("offline.text"), t("offline.hint"), 200)


@blueprint.get("/chat/<chat_id>/aside/<kind>")
def aside(chat_id: str, kind: str) -> Response:
    """A side answer of the model about the chat: ``title``, ``questions`` or ``summary``. ``?off=1`` returns the empty
    element."""
    page = chat_context()
    if kind not in ASIDE_TOKENS:
        raise ChatNotFound()
    values: kit.Values = {"id": chat_id, "kind": kind, "is_shown": "off" not in request.args}
    if values["is_shown"]:
        question = page.t(f"chat.aside.ask.{kind}")
        try:
            values["lines"], values["read"] = ask_aside(
                page.manager, page.presets, page.store, chat_id, kind, question, asker()
            )
        except ChatNotFound:
            raise
        except RoostError as exc:
            values["failure"] = page.sentences(exc)
    shown = {"aside": values, "page_title": page.t("chat.aside.label"), "back_url": f"/chat/{chat_id}"}
    return _part("chat/_aside.html", shown)


def _part(name: str, values: kit.Values) -> Response:
    """A part of a chat's page, or a separate page without scripts."""
    return kit.render_page("chat/part.html", {**values, "part": name}, name)


@blueprint.get("/chat/<chat_id>/older")
def older(chat_id: str) -> Response | BaseResponse:
    if not kit.wants_fragment():
        return redirect(url_for("chat.chat", chat_id=chat_id), 303)
    page = chat_context()
    found = conversation(page, chat_id, page.store.branch(chat_id), before=request.args.get("before", ""))
    return kit.render_page("chat/_older.html", {"conversation": found})


@blueprint.get("/chat/<chat_id>/export.<kind>")
def export(chat_id: str, kind: str) -> Response:
    page = chat_context()
    body: Any
    if kind == "rwkvchat":
        body, mimetype = b"".join(chat_files(page).save(chat_id)), "application/octet-stream"
    elif kind == "md":
        body, mimetype = chat_markdown(page.store, chat_id), "text/markdown"
    elif kind == "html":
        return page_to_print(page, chat_id)
    elif kind == "json":
        body = json.dumps(chat_document(page.store, chat_id), ensure_ascii=False, indent=1)
        mimetype = "application/json"
    else:
        raise ChatNotFound()
    name = kit.file_stem(title_of(page.store.get(chat_id).title, page.t), "chat")
    return kit.download(body, mimetype, f"{name}.{kind}")


def chat_files(page: ChatContext) -> ChatFiles:
    may_add_presets = current_role() >= least_role("presets.submit")
    return ChatFiles(page.manager, page.store, page.presets, may_add_presets=may_add_presets)


@blueprint.post("/chat/import")
def import_() -> Response | BaseResponse:
    """Imports one or more ``file``: chats of Roost and other programs. Redirects to the first of them; if one cannot be
    read, those before it stay imported."""
    request.max_content_length = chat_context().settings.max_body_bytes
    page, opened = chat_context(), []
    try:
        for upload in request.files.getlist("file"):
            if upload.filename:
                opened.append(chat_files(page).open(upload.filename[:NAME_BYTES], upload.stream.read()))
        if not opened:
            raise RoostError("chat_import_invalid", name="", reason=Text("reason.services.no_conversation"))
    except RoostError as exc:
        toast = page.error_toast(exc, id=f"i{next(_toast_numbers)}")
        status = kit.refused_status(exc)
        if kit.wants_fragment():
            return kit.render_page("chat/page.html", {"toast": toast}, "_toast.html", status=status)
        return _show(page, toasts=(toast,), status=status)
    page.news.publish(page.list_topic)
    chat_ids = [chat_id for each in opened for chat_id in each.chat_ids]
    left_out: Counter[str] = sum((each.left_out for each in opened), Counter())
    states = "kept" if any(each.states for each in opened) else ""
    if not states and any(each.has_states for each in opened):
        states = "lost"
    query = {
        "chats": len(chat_ids),
        "messages": sum(each.messages for each in opened),
        "left": ",".join(f"{kind}:{count}" for kind, count in sorted(left_out.items())),
        "states": states,
    }
    address = f"/chat/{chat_ids[0]}?{urlencode({name: value for name, value in query.items() if value})}"
    if kit.wants_fragment():
        return make_response("", {CHAT_HEADER: address})
    return redirect(address, 303)


def _import_toast(page: ChatContext, chat_id: str) -> tuple[kit.Toast, ...]:
    """After an import: what was imported, what was left out, and a hint if the states belong to another model."""
    chats, messages = (request.args.get(name, 0, type=int) for name in ("chats", "messages"))
    if not (chat_id and 0 < chats <= MAX_CHATS and 0 < messages <= MAX_MESSAGES):
        return ()
    parts = [page.t("chat.import.came", count=chats, messages=messages)]
    pairs = re.findall(r"([a-z_]{1,20}):([0-9]{1,6})(?:,|$)", request.args.get("left", "")[:QUERY_CHARS])
    kinds = [page.t(f"chat.import.left_out.{kind}", count=int(n)) for kind, n in pairs if kind in LEFT_OUT]
    hint = page.t("chat.import.left", kinds=page.t("chat.import.comma").join(kinds)) if kinds else ""
    states = request.args.get("states")
    if states == "kept":
        parts.append(page.t("chat.import.goes_on"))
    if states == "lost":
        model = next((row.model for row in reversed(page.store.branch(chat_id)) if row.model), "?")
        parts.append(page.t("chat.import.other_model", model=model))
        label = page.t("chat.import.read_now")
        return (kit.Toast("imported", " ".join(parts), hint, undo=f"read_chat:{chat_id}", label=label),)
    return (kit.Toast("imported", " ".join(parts), hint),)


@blueprint.post("/chat/do")
def do() -> Response | BaseResponse:
    """Every command, for a page without an open socket; returns the next page. Files in the form are sent too; if one
    is refused, nothing is sent, and the text and the other files stay on the page."""
    request.max_form_memory_size = FORM_BYTES
    page, fields = chat_context(), FrameFields(dict(request.form.items()))
    taken = _take_files(page, fields)
    try:
        if taken.refused:
            raise taken.refused[0]
        result = Commands(page, asker(), current_role).perform(read_command(fields))
    except RoostError as exc:
        shown = taken.chat_id if _exists(page, taken.chat_id) else ""
        status = kit.refused_status(exc)
        return _show(chat_context(), shown, (page.error_toast(exc),), status, request.form.get("text", ""))
    return redirect(address_of(result), 303)


@blueprint.post("/chat/poll")
def poll() -> Response:
    """Replaces the page's socket if no WebSocket gets through."""
    request.max_content_length = MAX_FRAME_BYTES
    pages: PolledPages = current_app.extensions["polled_pages"]
    return jsonify(pages.answer(parse_frame(request.get_data())))


def _exists(page: ChatContext, chat_id: str) -> bool:
    try:
        return bool(chat_id and page.store.get(chat_id))
    except RoostError:
        return False


# files


class TakenFiles(Struct, frozen=True):
    """``chat_id``: the form's chat, or a new one for the file."""

    chat_id: str
    refused: tuple[RoostError, ...] = ()


@attachments.post("/chat/attach")
def attach() -> Response | BaseResponse:
    """Adds one or more ``file`` to the next message of ``chat``; with the panel's fields if the chat has not begun."""
    request.max_content_length = UPLOAD_BYTES
    request.max_form_memory_size = FORM_BYTES
    page = chat_context()
    taken = _take_files(page, FrameFields(dict(request.form.items())))
    if not kit.wants_fragment():
        return redirect(f"/chat/{taken.chat_id}" if taken.chat_id else "/", 303)
    toasts = [page.error_toast(error, id=f"f{next(_toast_numbers)}") for error in taken.refused]
    values = {"attached": attached(page, taken.chat_id), "toasts": toasts}
    status = max((error.status for error in taken.refused), default=200)
    response = kit.render_page("chat/_uploaded.html", values, status=status)
    response.headers[CHAT_HEADER] = taken.chat_id
    return response


def _take_files(page: ChatContext, fields: FrameFields) -> TakenFiles:
    """The files in the request's form. ``fields`` receive the chat that is created for the first of them."""
    commands = Commands(page, asker(), current_role)
    chat_id, refused = fields.text("chat", kit.ID_CHARS, ""), []
    for upload in request.files.getlist("file"):
        if not upload.filename:  # the form's file field is empty
            continue
        data = upload.stream.read(DOCUMENT_BYTES + 1)
        try:
            command = Command("attach", "", chat_id, fields)
            chat_id = fields.values["chat"] = commands.attach(command, upload.filename[:NAME_BYTES], data).chat_id
        except RoostError as exc:
            refused.append(exc)
    return TakenFiles(chat_id, tuple(refused))


@attachments.get("/chat/<chat_id>/files/<attachment_id>")
def file(chat_id: str, attachment_id: str) -> Response:
    """The attached text."""
    page = chat_context()
    found = page.files.store.get(chat_id, attachment_id)
    values = {
        "page_title": found.name,
        "name": found.name,
        "facts": [size_text(found.size_bytes), reading_words(found.as_attached, page.t)],
        "text": page.files.store.text(chat_id, attachment_id),
        "back_url": f"/chat/{chat_id}",
        "download_url": f"/chat/{chat_id}/files/{attachment_id}/download",
    }
    return kit.render_page("chat/file.html", values)


@attachments.get("/chat/<chat_id>/files/<attachment_id>/download")
def file_text(chat_id: str, attachment_id: str) -> Response:
    """In UTF-8, whatever the original encoding; for a document only the text is stored."""
    store = chat_context().files.store
    name = store.get(chat_id, attachment_id).name
    ending = ".txt" if name.lower().endswith((".pdf", ".docx")) else ""
    return kit.download(store.text(chat_id, attachment_id), "text/plain", name + ending)


blueprint.register_blueprint(attachments)
