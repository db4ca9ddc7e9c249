"""Personas: a name with a picture, a system prompt, and the beginning of a chat. Imports character cards (JSON, and PNG
with a card inside); exports a persona as a card."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.services.generation.prefixes import Source
from webapp.storage.records import Chat, storable
from webapp.storage.saved_items import SavedItem, SavedItems
from webapp.web.kit.page import (
    Choice,
    PageContext,
    Values,
    current_page,
    download,
    file_stem,
    fresh_page,
    render_page,
    undone_id,
)
from webapp.web.presets.form import shown_name
from webapp.weights.state_sheet import PROMPT

KIND = "persona"
NAME_CHARS = 60
EMOJI_CHARS = 16
PROMPT_CHARS = 20_000
PICTURE_BYTES = 1 << 20
CARD_BYTES = 8 << 20
PICTURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
CARD_KEYWORDS = (b"ccv3", b"chara")
"""Names of the PNG text chunk with a card, newer first; both in base64."""

blueprint = Blueprint("personas", __name__, url_prefix="/personas")


def personas_of(page: PageContext) -> SavedItems:
    return SavedItems(page.database, KIND)


def find_persona(page: PageContext, persona_id: str) -> SavedItem | None:
    with contextlib.suppress(RoostError):
        return personas_of(page).get(persona_id) if persona_id else None
    return None


def face(item: SavedItem) -> Values:
    """``personas/_face.html``."""
    emoji = str(item.body.get("emoji", "")) or item.name[:1].upper()
    picture = url_for("personas.picture", persona_id=item.id, v=int(item.updated_at)) if item.has_picture else ""
    return {"id": item.id, "name": item.name, "emoji": emoji, "picture": picture}


def chat_with_persona(page: PageContext, chat: Chat, persona_id: str) -> Chat:
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


# the page


@blueprint.get("")
def index() -> Response:
    return render_page("personas/page.html", personas_page(current_page()))


@blueprint.get("/<persona_id>")
def edit(persona_id: str) -> Response:
    page = current_page()
    item = personas_of(page).get(persona_id)
    form = {"id": item.id, "seen": repr(item.updated_at), "name": item.name, **item.body}
    return render_page("personas/page.html", personas_page(page, form))


def personas_page(
    page: PageContext, form: Values | None = None, error: RoostError | None = None, place: str = ""
) -> Values:
    """``form``: a person's input; ``place``: "form" or "import", the position of ``error``."""
    said = ("saved", "deleted", "restored", "imported", "baking")
    empty = dict.fromkeys(("id", "seen", "name", "emoji", "system_prompt", "preset", "state", "greeting"), "")
    given = {**empty, **(form or {})}
    item = find_persona(page, given["id"])
    states = page.state_names()
    if given["state"] and given["state"] not in states:
        states.append(given["state"])
    return {
        "page_title": page.t("personas.title"),
        "commands_url": url_for("personas.do"),
        "rows": [{**face(one), "text": one.body.get("system_prompt", "")} for one in personas_of(page).list()],
        "form": given,
        "face": face(item) if item else None,
        "presets": [
            Choice("", page.t("personas.no_preset")),
            *(Choice(preset.id, shown_name(preset, page.t)) for preset in page.presets.list()),
        ],
        "states": [Choice("", page.t("personas.no_state")), *(Choice(name, name) for name in states)],
        "error": {"place": place, "code": error.code, "text": page.sentences(error)} if error else None,
        "toasts": page.done_toast("personas.said", said),
    }


@blueprint.post("")
def save() -> Response | BaseResponse:
    """``id`` "" creates a new one. ``picture`` replaces the old one, ``no_picture`` removes it."""
    request.max_content_length = request.max_form_memory_size = 2 * PICTURE_BYTES
    page = current_page()
    names = ("id", "seen", "name", "emoji", "system_prompt", "preset", "state", "greeting")
    form = {name: request.form.get(name, "").replace("\r\n", "\n") for name in names}
    try:
        name, body = checked(form)
        upload = request.files.get("picture")
        picture = checked_picture(upload.stream.read(PICTURE_BYTES + 1)) if upload and upload.filename else None
        keeps = "no_picture" not in request.form
        saved = personas_of(page).save(form["id"], name, body, picture, keeps, request.form.get("seen", type=float))
    except RoostError as exc:
        if exc.status == 404:
            raise
        return render_page("personas/page.html", personas_page(fresh_page(), form, exc, "form"), status=422)
    return redirect(url_for("personas.index", said="saved", about=saved.name), 303)


def checked(form: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
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


@blueprint.get("/<persona_id>/picture")
def picture(persona_id: str) -> Response:
    data = personas_of(current_page()).picture(persona_id)
    headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return Response(data, mimetype=media_type(data) or "application/octet-stream", headers=headers)


@blueprint.post("/<persona_id>/bake")
def bake(persona_id: str) -> Response | BaseResponse:
    """Prefills the system prompt into a state file, from which the persona's chats then start."""
    page = current_page()
    item = personas_of(page).get(persona_id)
    prefixes = page.prefixes
    source = Source(PROMPT, item.name, str(item.body.get("system_prompt", "")))
    try:
        name = prefixes.states.free_name(item.name)
        prefixes.bake(source, name)
        personas_of(page).save(item.id, item.name, {**item.body, "state": name})
    except RoostError as exc:
        form = {"id": item.id, "seen": repr(item.updated_at), "name": item.name, **item.body}
        return render_page("personas/page.html", personas_page(fresh_page(), form, exc, "form"), status=422)
    return redirect(url_for("personas.index", said="baking", about=item.name), 303)


@blueprint.post("/<persona_id>/delete")
def delete(persona_id: str) -> BaseResponse:
    item = personas_of(current_page()).delete(persona_id)
    return redirect(url_for("personas.index", said="deleted", about=item.name, undo=item.id), 303)


@blueprint.post("/do")
def do() -> BaseResponse:
    """The undo command of a toast."""
    item = personas_of(current_page()).restore(undone_id())
    return redirect(url_for("personas.index", said="restored", about=item.name), 303)


# character cards


@blueprint.post("/import")
def import_() -> Response | BaseResponse:
    request.max_content_length = CARD_BYTES
    page, upload = current_page(), request.files.get("file")
    try:
        name, body, image = persona_in(upload.stream.read() if upload else b"")
        made = personas_of(page).create_all([(name, body, image)])[0]
    except RoostError as exc:
        return render_page("personas/page.html", personas_page(fresh_page(), None, exc, "import"), status=422)
    return redirect(url_for("personas.index", said="imported", about=made.name), 303)


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
        told = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise RoostError("item_invalid", reason=Text("reason.web.no_card")) from exc
    card = told.get("data") if isinstance(told, dict) and isinstance(told.get("data"), dict) else told
    if not isinstance(card, dict) or not isinstance(card.get("name"), str):
        raise RoostError("item_invalid", reason=Text("reason.web.no_card"))
    own = card.get("extensions")
    own = own.get("roost") if isinstance(own, dict) else None
    name, body = checked({**(own if isinstance(own, dict) else {}), **_card_texts(card)})
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


@blueprint.get("/<persona_id>/export.json")
def export(persona_id: str) -> Response:
    """A character card, version 2; data that only Roost uses is in its extensions."""
    item = personas_of(current_page()).get(persona_id)
    body = dict(item.body)
    data = {"name": item.name, "system_prompt": body.pop("system_prompt", ""), "first_mes": body.pop("greeting", "")}
    empty = dict.fromkeys(
        ("description", "personality", "scenario", "mes_example", "creator_notes", "creator", *MORE), ""
    )
    lists: dict[str, Any] = {"alternate_greetings": [], "tags": []}
    card = {
        "spec": "chara_card_v2",
        "spec_version": "2.0",
        "data": {**empty, **lists, **data, "extensions": {"roost": body}},
    }
    text = json.dumps(card, ensure_ascii=False, indent=2)
    return download(text, "application/json", f"{file_stem(item.name, 'persona')}.json")
