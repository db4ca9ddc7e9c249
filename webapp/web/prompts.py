"""The prompt library (``/prompts``) and the personas (``/personas``): two kinds of :class:`SavedItems` with the same
actions.

A prompt is a text that ``/name`` inserts into the composer, asking for its variables; ``static/js/prompts.js`` requests
the list. A persona is a name with a picture, a system prompt, and the beginning of a chat; character cards (JSON, and
PNG with a card inside) can be imported, and a persona exported as one. Both pages work without scripts.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, redirect, request, url_for
from msgspec.structs import replace
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.request import PrefixSource
from webapp.storage.records import Chat, storable
from webapp.storage.saved_items import SavedItem, SavedItems
from webapp.web.kit import page as kit
from webapp.web.presets.form import shown_name
from webapp.weights.state_sheet import PROMPT

prompts = Blueprint("prompts", __name__, url_prefix="/prompts")
personas = Blueprint("personas", __name__, url_prefix="/personas")
KINDS = {"prompts": "prompt", "personas": "persona"}
TOASTS = ("saved", "deleted", "restored", "imported")


# the actions of both


def current_items() -> SavedItems:
    """Those of the request's page."""
    return SavedItems(kit.current_page().database, KINDS[request.blueprint or ""])


def show(form: kit.Values | None = None, error: RoostError | None = None, place: str = "form") -> Response:
    """The list with the form. ``form``: a person's input; ``place``: "form" or "import", the position of ``error``."""
    page, name = kit.fresh_page() if error else kit.current_page(), request.blueprint or ""
    values = {
        "page_title": page.t(f"{name}.title"),
        "error": {"place": place, "code": error.code, "text": page.sentences(error)} if error else None,
        **(prompts_page(page, form) if name == "prompts" else personas_page(page, form)),
    }
    return kit.render_page(f"{name}/page.html", values, status=422 if error else 200)


def form_of(item: SavedItem) -> kit.Values:
    return {"id": item.id, "seen": repr(item.updated_at), "name": item.name, **item.body}


def done(said: str, about: object, undo: str | None = None) -> BaseResponse:
    return redirect(url_for(".index", said=said, about=about, undo=undo), 303)


@prompts.get("")
@personas.get("")
def index() -> Response:
    return show()


@prompts.get("/<item_id>")
@personas.get("/<item_id>")
def edit(item_id: str) -> Response:
    return show(form_of(current_items().get(item_id)))


@prompts.post("/<item_id>/delete")
@personas.post("/<item_id>/delete")
def delete(item_id: str) -> BaseResponse:
    item = current_items().delete(item_id)
    return done("deleted", item.name, item.id)


@prompts.post("/do")
@personas.post("/do")
def do() -> BaseResponse:
    """The undo command of a toast."""
    return done("restored", current_items().restore(kit.undone_id()).name)


# prompts

PROMPT_NAME = re.compile(r"[^\s/{}]{1,60}")
TITLE_CHARS = 200
TEXT_CHARS = 200_000
FORM_BYTES = 2 << 20
IMPORT_CHARS = 8_000_000
MAX_IMPORTED = 1000
WORDS = ("insert", "cancel", "fill", "none", "add", "list")


def prompts_page(page: kit.PageContext, form: kit.Values | None) -> kit.Values:
    return {
        "toasts": page.done_toast("prompts.said", TOASTS),
        "rows": [{"id": item.id, "name": item.name, **item.body} for item in current_items().list()],
        "form": form or {"id": "", "seen": "", "name": "", "title": "", "content": ""},
    }


@prompts.get("/list")
def list_() -> Response:
    """For the composer: the prompts, and the words of its list and form."""
    page = kit.current_page()
    found = [{"name": item.name, **item.body} for item in current_items().list()]
    return jsonify(prompts=found, words={word: page.t(f"prompts.{word}") for word in WORDS})


@prompts.post("", endpoint="save")
def save_prompt() -> Response | BaseResponse:
    """``id`` "" creates a new one."""
    request.max_form_memory_size = FORM_BYTES
    form = {name: request.form.get(name, "") for name in ("id", "seen", "name", "title", "content")}
    try:
        name, body = checked_prompt(form)
        saved = current_items().save(form["id"], name, body, seen=request.form.get("seen", type=float))
    except RoostError as exc:
        if exc.status == 404:
            raise
        return show(form, exc)
    return done("saved", saved.name)


def checked_prompt(form: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """(name, body); raises ``item_invalid`` for a name that cannot be typed after a slash, and for an empty text."""
    name = storable(str(form.get("name", ""))).strip().removeprefix("/")
    if not PROMPT_NAME.fullmatch(name) or not name.isprintable():
        raise RoostError("item_invalid", reason=Text("reason.web.prompt_name"))
    content = storable(str(form.get("content", "")).replace("\r\n", "\n"))
    if not content.strip():
        raise RoostError("item_invalid", reason=Text("reason.common.is_empty"))
    if len(content) > TEXT_CHARS:
        raise RoostError("too_large", found=len(content), limit=TEXT_CHARS)
    title = " ".join(storable(str(form.get("title", ""))).split())[:TITLE_CHARS]
    return name, {"title": title, "content": content}


@prompts.post("/import", endpoint="import_")
def import_prompts() -> Response | BaseResponse:
    """Imports files of :func:`export_prompts` and of Open WebUI; pasted or as a file. All or none."""
    request.max_form_memory_size = FORM_BYTES
    try:
        made = [(name, body, None) for name, body in prompts_in(kit.posted_text(IMPORT_CHARS))]
        current_items().create_all(made)
    except RoostError as exc:
        return show(None, exc, "import")
    return done("imported", len(made))


def prompts_in(text: str) -> list[tuple[str, dict[str, str]]]:
    """(name, body) for each object in an array; Open WebUI stores the name in ``command`` ("/name") and the title in
    ``title`` or, in later versions, ``name``. Raises ``item_invalid``."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RoostError("item_invalid", reason=Text("reason.common.is_not_valid_json")) from exc
    rows = rows if isinstance(rows, list) else [rows]
    if not rows or len(rows) > MAX_IMPORTED or not all(isinstance(row, dict) for row in rows):
        raise RoostError("item_invalid", reason=Text("reason.web.no_prompts_in_it"))
    found = []
    for row in rows:
        if not isinstance(row.get("content"), str) or not isinstance(row.get("command"), str):
            raise RoostError("item_invalid", reason=Text("reason.web.no_prompts_in_it"))
        name = re.sub(r"[\s/{}]+", "-", row["command"].strip().strip("/"))[:60]
        title = row.get("title") or row.get("name") or ""
        found.append(checked_prompt({"name": name, "title": title, "content": row["content"]}))
    return found


@prompts.get("/export.json", endpoint="export")
def export_prompts() -> Response:
    """In a form that old and new Open WebUI versions can read."""
    rows = [
        {"command": f"/{item.name}", "title": item.body["title"], "name": item.body["title"], **item.body}
        for item in current_items().list()
    ]
    return kit.download(json.dumps(rows, ensure_ascii=False, indent=2), "application/json", "prompts.json")


# personas

NAME_CHARS = 60
EMOJI_CHARS = 16
PROMPT_CHARS = 20_000
PICTURE_BYTES = 1 << 20
CARD_BYTES = 8 << 20
PICTURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
CARD_KEYWORDS = (b"ccv3", b"chara")
"""Names of the PNG text chunk with a card, newer first; both in base64."""
FIELDS = ("id", "seen", "name", "emoji", "system_prompt", "preset", "state", "greeting")


def personas_of(page: kit.PageContext) -> SavedItems:
    return SavedItems(page.database, KINDS["personas"])


def find_persona(page: kit.PageContext, persona_id: str) -> SavedItem | None:
    with contextlib.suppress(RoostError):
        return personas_of(page).get(persona_id) if persona_id else None
    return None


def face(item: SavedItem) -> kit.Values:
    """``personas/_face.html``."""
    emoji = str(item.body.get("emoji", "")) or item.name[:1].upper()
    picture = url_for("personas.picture", item_id=item.id, v=int(item.updated_at)) if item.has_picture else ""
    return {"id": item.id, "name": item.name, "emoji": emoji, "picture": picture}


def chat_with_persona(page: kit.PageContext, chat: Chat, persona_id: str) -> Chat:
    """The new chat with this persona: its greeting, prompt and state. A state that is missing or does not fit the model
    is left out; the prompt is then prefilled normally."""
    item = find_persona(page, persona_id)
    if item is None:
        return chat
    body, state = item.body, str(item.body.get("state", ""))
    if state:
        try:
            page.manager.check_state(state)
        except RoostError:
            state = ""
    known = any(preset.id == body.get("preset") for preset in page.presets.list())
    return replace(
        chat,
        persona_id=item.id,
        system_prompt=str(body.get("system_prompt", "")),
        preset_id=str(body["preset"]) if known else chat.preset_id,
        state=state or chat.state,
    )


def personas_page(page: kit.PageContext, form: kit.Values | None) -> kit.Values:
    given = {**dict.fromkeys(FIELDS, ""), **(form or {})}
    item = find_persona(page, given["id"])
    states = page.state_names()
    if given["state"] and given["state"] not in states:
        states.append(given["state"])
    return {
        "toasts": page.done_toast("personas.said", (*TOASTS, "baking")),
        "rows": [{**face(one), "text": one.body.get("system_prompt", "")} for one in personas_of(page).list()],
        "form": given,
        "face": face(item) if item else None,
        "presets": [
            kit.Choice("", page.t("personas.no_preset")),
            *(kit.Choice(preset.id, shown_name(preset, page.t)) for preset in page.presets.list()),
        ],
        "states": [kit.Choice("", page.t("personas.no_state")), *(kit.Choice(name, name) for name in states)],
    }


@personas.post("", endpoint="save")
def save_persona() -> Response | BaseResponse:
    """``id`` "" creates a new one. ``picture`` replaces the old one, ``no_picture`` removes it."""
    request.max_content_length = request.max_form_memory_size = 2 * PICTURE_BYTES
    form = {name: request.form.get(name, "").replace("\r\n", "\n") for name in FIELDS}
    try:
        name, body = checked_persona(form)
        upload = request.files.get("picture")
        picture = checked_picture(upload.stream.read(PICTURE_BYTES + 1)) if upload and upload.filename else None
        keeps = "no_picture" not in request.form
        saved = current_items().save(form["id"], name, body, picture, keeps, request.form.get("seen", type=float))
    except RoostError as exc:
        if exc.status == 404:
            raise
        return show(form, exc)
    return done("saved", saved.name)


def checked_persona(form: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """(name, body). Raises ``item_invalid`` without a name, ``too_large`` for a text that is too long."""
    name = " ".join(storable(str(form.get("name") or "")).split())[:NAME_CHARS]
    if not name:
        raise RoostError("item_invalid", reason=Text("reason.web.persona_name"))
    body = {field: storable(str(form.get(field) or "")).strip() for field in ("system_prompt", "greeting")}
    for text in body.values():
        if len(text) > PROMPT_CHARS:
            raise RoostError("too_large", found=len(text), limit=PROMPT_CHARS)
    short = {field: storable(str(form.get(field) or "")).strip()[:500] for field in ("preset", "state")}
    return name, {**body, **short, "emoji": storable(str(form.get("emoji") or "")).strip()[:EMOJI_CHARS]}


def checked_picture(data: bytes) -> bytes:
    """Raises ``item_invalid`` unless it is a picture that all browsers show, of at most :data:`PICTURE_BYTES`."""
    if len(data) > PICTURE_BYTES or not media_type(data):
        raise RoostError("item_invalid", reason=Text("reason.web.no_picture"))
    return data


def media_type(data: bytes) -> str:
    """By its first bytes; "" for no picture."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for begin, kind in PICTURES if data.startswith(begin)), "")


@personas.get("/<item_id>/picture")
def picture(item_id: str) -> Response:
    data = current_items().picture(item_id)
    headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return Response(data, mimetype=media_type(data) or "application/octet-stream", headers=headers)


@personas.post("/<item_id>/bake")
def bake(item_id: str) -> Response | BaseResponse:
    """Prefills the system prompt into a state file, from which the persona's chats then start."""
    prefixes, items = kit.current_page().prefixes, current_items()
    item = items.get(item_id)
    source = PrefixSource(PROMPT, item.name, str(item.body.get("system_prompt", "")))
    try:
        name = prefixes.states.free_name(item.name)
        prefixes.bake(source, name)
        items.save(item.id, item.name, {**item.body, "state": name})
    except RoostError as exc:
        return show(form_of(item), exc)
    return done("baking", item.name)


@personas.post("/import", endpoint="import_")
def import_persona() -> Response | BaseResponse:
    """A character card."""
    request.max_content_length = CARD_BYTES
    upload = request.files.get("file")
    try:
        made = current_items().create_all([persona_in(upload.stream.read() if upload else b"")])[0]
    except RoostError as exc:
        return show(None, exc, "import")
    return done("imported", made.name)


def persona_in(data: bytes) -> tuple[str, dict[str, str], bytes | None]:
    """(name, body, picture) of a card; a PNG is its picture too, where it is small enough. ``item_invalid``."""
    image = None
    if data.startswith(PICTURES[0][0]):
        image = data if len(data) <= PICTURE_BYTES else None
        chunks = dict(reversed(list(text_chunks(data))))
        data = next((chunks[word] for word in CARD_KEYWORDS if word in chunks), b"")
        with contextlib.suppress(ValueError):
            data = base64.b64decode(data, validate=True)
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise RoostError("item_invalid", reason=Text("reason.web.no_card")) from exc
    card = document.get("data") if isinstance(document, dict) and isinstance(document.get("data"), dict) else document
    if not isinstance(card, dict) or not isinstance(card.get("name"), str):
        raise RoostError("item_invalid", reason=Text("reason.web.no_card"))
    own = card.get("extensions")
    own = own.get("roost") if isinstance(own, dict) else None
    name, body = checked_persona({**(own if isinstance(own, dict) else {}), **_card_texts(card)})
    return name, body, image


def _card_texts(card: Mapping[str, Any]) -> dict[str, str]:
    """A card's parts as one system prompt, with its placeholders for names replaced."""
    name = card["name"]
    said = {key: card[key] if isinstance(card.get(key), str) else "" for key in CARD_PARTS}
    greeting = said.pop("first_mes").strip()
    parts = [f"{CARD_PARTS[key]}{text.strip()}" for key, text in said.items() if text.strip()]

    def named(text: str) -> str:
        return re.sub(r"(?i)\{\{user\}\}|<user>", "User", re.sub(r"(?i)\{\{char\}\}|<bot>", lambda _: name, text))

    return {"name": name, "system_prompt": named("\n".join(parts)), "greeting": named(greeting)}


MORE = ("creator_notes", "creator", "post_history_instructions", "character_version")
CARD_PARTS = {
    "system_prompt": "",
    "description": "",
    "personality": "Personality: ",
    "scenario": "Scenario: ",
    "mes_example": "Example of a conversation:\n",
    "first_mes": "",
}


def text_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(keyword, text) of each ``tEXt`` chunk; stops where the file is inconsistent."""
    place = 8
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        body = png[place + 8 : place + 8 + length]
        if len(body) < length:
            return
        if kind == b"tEXt" and b"\0" in body:
            keyword, _, text = body.partition(b"\0")
            yield keyword, text
        place += 12 + length


@personas.get("/<item_id>/export.json", endpoint="export")
def export_persona(item_id: str) -> Response:
    """A character card, version 2; data that only Roost uses is in its extensions."""
    item = current_items().get(item_id)
    body = dict(item.body)
    data = {"name": item.name, "system_prompt": body.pop("system_prompt", ""), "first_mes": body.pop("greeting", "")}
    empty = dict.fromkeys((*CARD_PARTS, *MORE), "")
    lists: dict[str, Any] = {"alternate_greetings": [], "tags": []}
    card = {
        "spec": "chara_card_v2",
        "spec_version": "2.0",
        "data": {**empty, **lists, **data, "extensions": {"roost": body}},
    }
    text = json.dumps(card, ensure_ascii=False, indent=2)
    return kit.download(text, "application/json", f"{kit.file_stem(item.name, 'persona')}.json")
