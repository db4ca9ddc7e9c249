"""Beside the conversation: the list of chats on the left, with search and the page of all chats; on the right the panel
(preset, sampling, prompt, state, tools), as values for the page and as a form that is parsed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from webapp.chat.formats import OWN, PromptTemplate, all_templates, format_names, template
from webapp.chat.messages import ThinkMode
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools, all_dialects
from webapp.errors import ModelNotFound, RoostError
from webapp.i18n import Text
from webapp.manager.target import ZERO_STATE
from webapp.services.chat.tool_loop import is_known_to_call
from webapp.services.chat.turn_writer import chosen_tools, think_mode_of
from webapp.services.generation.request import format_of
from webapp.services.presets.fields import (
    MODEL_NAME_CHARS,
    SAMPLING,
    Parameter,
    flat,
    overrides,
    plain,
    read_field,
    read_fields,
)
from webapp.services.presets.presets import file_name, mode_of, published_sampling
from webapp.storage.presets import Preset
from webapp.storage.records import Chat, ChatSummary, ChatTools, SearchHit
from webapp.web.chat.live import PRESETS, ChatContext
from webapp.web.kit.page import ID_CHARS, Choice, Toast, Translator, Values, browser_zone, render_fragment
from webapp.web.presets.form import labels, origin_of, shown_name, shown_note
from webapp.web.prompts import chat_with_persona
from webapp.weights.inspection import chat_template

if TYPE_CHECKING:  # commands imports this module
    from webapp.web.chat.commands import FrameFields

# the list of chats

PAGE = 20
MOST = 2000
IN_FOLDER = 5
"""How many chats of a folder the list shows."""
ROWS = 100
"""Per page of all chats."""
HITS = 40


def title_of(title: str, t: Translator) -> str:
    return title or t("chat.list.untitled")


def chat_list(page: ChatContext, current_id: str = "", count: int = PAGE) -> Values:
    """``chat/_list.html``: pinned chats, folders, and the ``count`` other chats last used, grouped by day. ``more``:
    how many to request next, 0 if these are all; ``longer_count``: how many were requested, 0 for the default."""
    count = min(max(count, PAGE), MOST)
    writing = set(page.turns.writing())  # before the rows are read: a later end causes a notification
    placed, found = page.store.placed(), page.store.loose(count + 1)
    folders: dict[str, list[ChatSummary]] = {}
    for row in placed:
        if not row.is_pinned:
            folders.setdefault(row.folder, []).append(row)
    ages = by_age(found[:count], time.time(), browser_zone())
    parts = [(page.t("chat.list.pinned"), "", [row for row in placed if row.is_pinned])]
    parts += [(name, name, folders[name]) for name in sorted(folders, key=str.casefold)]
    parts += [(page.t(f"chat.list.{age}"), "", rows) for age, rows in ages.items()]
    groups = [_group(page, current_id, writing, *part) for part in parts if part[2]]
    more = count + PAGE if len(found) > count else 0
    folder_names = sorted({row.folder for row in placed} - {""}, key=str.casefold)
    return {"groups": groups, "more": more, "longer_count": count if count > PAGE else 0, "folders": folder_names}


def _group(
    page: ChatContext, current_id: str, writing: set[str], label: str, folder: str, rows: Sequence[ChatSummary]
) -> Values:
    """A folder's last used chats, and the shown chat; ``more``: how many others it contains."""
    last = [row for place, row in enumerate(rows) if not folder or place < IN_FOLDER or row.id == current_id]
    shown = [_list_row(page, row, current_id, row.id in writing) for row in last]
    return {"label": label, "folder": folder, "rows": shown, "more": len(rows) - len(last)}


FILTERS = ("q", "folder", "archived", "pinned", "since", "until", "preset", "model")
"""Filters of the page of all chats, by their names in the URL."""


def all_chats(page: ChatContext, chosen: dict[str, str], first: int, toasts: tuple[Toast, ...]) -> Values:
    """``chat/all.html``: every chat, ``ROWS`` from ``first`` on. ``chosen``: the requested :data:`FILTERS`; days are in
    the reader's time zone, ``until`` is inclusive."""
    zone = browser_zone()
    rows = page.store.list(
        chosen.get("q", ""),
        ROWS + 1,
        first,
        chosen.get("folder"),
        "archived" in chosen,
        True if "pinned" in chosen else None,
        _day(chosen.get("since", ""), zone),
        _day(chosen.get("until", ""), zone, 1),
        chosen.get("preset"),
        chosen.get("model"),
    )
    presets = [Choice(preset.id, shown_name(preset, page.t)) for preset in page.presets.list()]
    return {
        "page_title": page.t("chat.all.title"),
        "commands_url": "/chats/all/do",
        "toasts": toasts,
        "rows": [
            {
                "id": row.id,
                "title": title_of(row.title or row.snippet[:60], page.t),
                "folder": row.folder,
                "is_pinned": row.is_pinned,
                "used_iso": datetime.fromtimestamp(row.updated_at, timezone.utc).isoformat(timespec="seconds"),
                "used": datetime.fromtimestamp(row.updated_at, zone).strftime("%Y-%m-%d %H:%M"),
                "snippet": row.snippet,
            }
            for row in rows[:ROWS]
        ],
        "chosen": chosen,
        "folders": page.store.folders(),
        "presets": presets,
        "models": page.store.models(),
        "previous": max(0, first - ROWS) if first else None,
        "next": first + ROWS if len(rows) > ROWS else None,
    }


def _day(text: str, zone: tzinfo | None, later: int = 0) -> float | None:
    """The beginning of that day in Unix seconds; None for an invalid date."""
    try:
        return (datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=zone) + timedelta(days=later)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def by_age(rows: Iterable[ChatSummary], now: float, zone: tzinfo | None = None) -> dict[str, list[ChatSummary]]:
    """Today, yesterday and earlier, by the calendar of ``zone`` (None: the server's); keeps the order within each."""
    today = datetime.fromtimestamp(now, zone).date()
    found: dict[str, list[ChatSummary]] = {"today": [], "yesterday": [], "earlier": []}
    for row in rows:
        day = datetime.fromtimestamp(row.updated_at, zone).date()
        age = "today" if day >= today else "yesterday" if day == today - timedelta(days=1) else "earlier"
        found[age].append(row)
    return found


def _list_row(page: ChatContext, row: ChatSummary, current_id: str, is_answering: bool) -> Values:
    return {
        "id": row.id,
        "title": title_of(row.title or row.snippet[:60], page.t),
        "folder": row.folder,
        "is_pinned": row.is_pinned,
        "is_current": row.id == current_id,
        "is_answering": is_answering,
        "is_incomplete": row.status not in ("complete", "streaming"),
    }


def search_results(page: ChatContext, query: str) -> Values:
    """``chat/_search_results.html``; for an empty ``query`` it is empty, and the list is shown again. ``is_cut``: there
    are more results than shown."""
    query = query.strip()
    found = page.store.search(query, HITS + 1) if query else []  # for titles and for messages
    titles = [hit for hit in found if not hit.message_id][:HITS]
    messages = [hit for hit in found if hit.message_id][:HITS]
    hits = [_hit(hit, page.t) for hit in titles + messages]
    return {"query": query, "hits": hits, "is_cut": len(hits) < len(found)}


def _hit(hit: SearchHit, t: Translator) -> Values:
    url = f"/chat/{hit.chat_id}"
    if hit.message_id:
        url += f"?at={hit.message_id}#m-{hit.message_id}"
    return {"url": url, "title": title_of(hit.title, t), "excerpt": excerpt_parts(hit.excerpt, hit.positions)}


def excerpt_parts(excerpt: str, positions: Iterable[tuple[int, int]]) -> list[tuple[str, bool]]:
    """(text, whether it is a match), in order."""
    parts, done = [], 0
    for start, end in positions:
        parts += [(excerpt[done:start], False), (excerpt[start:end], True)]
        done = end
    parts.append((excerpt[done:], False))
    return [part for part in parts if part[0]]


# the panel's form

NEW_CHAT = Chat(id="")
"""A chat that begins with its first message; until then its panel's values exist only on the page."""
SYSTEM_PROMPT_CHARS = 20_000
BASE_CHARS = 4000
TOOLS_FORM_CHARS = 16
FROM_PRESET = "*"
"""The choice of a state that uses the preset's; "" is a different choice."""
PLACEHOLDER_CHARS = 300
NO_OFFER: Values = {"is_shown": False}
MODES = tuple(mode.value for mode in ThinkMode)
DIALECTS = ("", *(row.name for row in all_dialects()))
TEMPLATES = ("", *format_names())


def chat_with(page: ChatContext, chat: Chat, fields: FrameFields) -> Chat:
    """The chat with the form's values; values that are not in the form stay. Raises ``bad_frame``, PresetError or a
    WeightsError for invalid values.

    ``base``: the preset's values as shown on the page. Only differences from them become overrides, so a page that was
    rendered before the preset changed does not freeze the old values.
    """
    if not chat.id and "persona" in fields:
        chat = chat_with_persona(page, chat, fields.text("persona", ID_CHARS))
    base = read_base(page, chat, fields)
    if "system_prompt" in fields:
        chat = replace(chat, system_prompt=fields.text("system_prompt", SYSTEM_PROMPT_CHARS).strip())
    if "think_mode" in fields:
        mode = ThinkMode(fields.choice("think_mode", MODES))
        chat = replace(chat, think_mode=None if mode.value == base["think_mode"] else mode)
    if "template" in fields:
        chat = replace(chat, template=fields.choice("template", TEMPLATES))
    given = {row.name: _given(fields, row) for row in SAMPLING if _is_given(fields, row)}
    if given:
        chat = replace(chat, sampling=overrides(given, base))
    was = chosen_tools(chat, page.presets.of_chat(chat), page.database)
    chat = replace(chat, tools=_with_tools(page, chat.tools, was, fields))
    return _with_preset(page, _with_state(page, chat, fields), fields)


def read_base(page: ChatContext, chat: Chat, fields: FrameFields) -> Mapping[str, Any]:
    """Typed values by name: from the form, otherwise the preset's current ones."""
    known = preset_values(page, chat)
    if "base" not in fields:
        return known
    try:
        data = json.loads(fields.text("base", BASE_CHARS))
    except (ValueError, RecursionError) as exc:
        raise RoostError("bad_frame", reason=Text("reason.web.base_must_be_json")) from exc
    if not isinstance(data, dict):
        raise RoostError("bad_frame", reason=Text("reason.web.base_must_be_json"))
    values, _ = read_fields({name: value for name, value in data.items() if name in known})
    return {**known, **values}


def preset_values(page: ChatContext, chat: Chat) -> dict[str, Any]:
    """The values that a chat uses if it sets nothing itself."""
    preset = page.presets.of_chat(chat)
    params = page.presets.sampling(preset, {}, page.model, _mode(page, preset, chat))
    return {**{row.name: getattr(params, row.name) for row in SAMPLING}, "think_mode": preset.think_mode}


def _mode(page: ChatContext, preset: Preset, chat: Chat) -> str:
    """Which of the recommendations of the model's makers counts."""
    return mode_of(think_mode_of(chat, preset), chosen_tools(chat, preset, page.database).is_on)


def _is_given(fields: FrameFields, row: Parameter) -> bool:
    """A switch that is off is not sent: it counts as off if the form sends its base."""
    return row.name in fields or (row.kind == "bool" and "base" in fields)


def _given(fields: FrameFields, row: Parameter) -> Any:
    value = fields.values.get(row.name, False)
    found = read_field(row.name, value)
    if found is None and not row.is_optional:
        raise RoostError("bad_frame", reason=Text("reason.web.field_is_missing", name=row.name))
    return found


def _with_tools(page: ChatContext, tools: ChatTools, was: ChatTools, fields: FrameFields) -> ChatTools:
    """``was``: the chat's tools until now. ``tools_form``: the tools as shown on the page; an equal form means no
    choice. Switched on without a choice of tools, all are used."""
    if "tools_form" not in fields:
        return tools
    known = [tool.id for tool in page.tools.list()]
    ids = tuple(tool_id for tool_id in known if f"tool:{tool_id}" in fields)
    is_on, is_free = "tools_on" in fields, "tools_free" in fields
    dialect = fields.choice("tools_dialect", DIALECTS, "")
    given = replace(tools, is_own=True, is_on=is_on, tool_ids=ids, dialect=dialect, is_free=is_free)
    if tools_shown(given) == fields.text("tools_form", TOOLS_FORM_CHARS):
        return tools
    is_new = is_on and not ids and not was.is_on
    return replace(given, tool_ids=tuple(known)) if is_new else given


def tools_shown(tools: ChatTools) -> str:
    """A short text that represents the shown tools."""
    shown = json.dumps((tools.is_on, sorted(tools.tool_ids), tools.dialect, tools.is_free))
    return hashlib.sha256(shown.encode()).hexdigest()[:TOOLS_FORM_CHARS]


def _with_state(page: ChatContext, chat: Chat, fields: FrameFields) -> Chat:
    """A newly chosen state must fit the model that answers."""
    if "state" not in fields:
        return chat
    name = fields.text("state", MODEL_NAME_CHARS)
    state = None if name == FROM_PRESET else str(read_field("state", name))
    if state and state != chat.state:
        page.manager.check_state(state)
    return replace(chat, state=state)


def _with_preset(page: ChatContext, chat: Chat, fields: FrameFields) -> Chat:
    if "preset" not in fields:
        return chat
    preset_id = fields.text("preset", ID_CHARS)
    if preset_id and preset_id != chat.preset_id:
        page.presets.get(preset_id)
    return replace(chat, preset_id=preset_id)


def save_options(page: ChatContext, chat: Chat) -> None:
    """Stores the result of :func:`chat_with`."""
    store = page.store
    store.set_options(chat.id, chat.template, chat.think_mode or "", chat.sampling, chat.preset_id)
    store.set_system_prompt(chat.id, chat.system_prompt)
    store.set_state(chat.id, chat.state)
    store.set_tools(chat.id, chat.tools)


def as_preset(page: ChatContext, chat: Chat, name: str) -> Preset:
    """A new preset with this chat's settings."""
    values = {**flat(page.presets.of_chat(chat)), **chat.sampling}
    if chat.system_prompt:
        values["system_prompt"] = chat.system_prompt
    if chat.template:
        values["template"] = chat.template
    if chat.think_mode is not None:
        values["think_mode"] = chat.think_mode.value
    if chat.state is not None:
        values["state"] = chat.state
    if chat.tools.is_own:
        chosen = page.tools.by_ids(chat.tools.tool_ids) if chat.tools.is_on else []
        values["tools"] = [tool.definition.name for tool in chosen]
        values["tool_dialect"] = chat.tools.dialect or values["tool_dialect"]
    return page.presets.create(name, {**values, "note": ""})


# the panel's values


class Panel:
    """The content of a chat's panel in one language. ``html`` is rendered at the first access, within a request."""

    def __init__(self, page: ChatContext, chat: Chat) -> None:
        self.options, self.thinking = options(page, chat), thinking(page, chat)
        self.fingerprint: str = self.options["fingerprint"]
        self._locale = page.locale

    @cached_property
    def html(self) -> str:
        return render_fragment("chat/_options.html", {"options": self.options}, self._locale)


def panel_of(page: ChatContext, chat: Chat) -> Panel:
    """The same object for all pages and chats whose panels depend on equal values: created and rendered once."""
    follows_from = (
        page.locale,
        replace(chat, id="", title="", head_id=None, created_at=0.0, updated_at=0.0, person_id=""),
        (page.person.kind, page.person.is_admin),  # which decide what tools there are
        page.news.number(PRESETS),
        page.what_runs,
        page.model,
        page.database.revisions.get("tools"),
        page.state_names(),
    )
    found: Panel = page.renderings.panels.of(follows_from, lambda: Panel(page, chat))
    return found


def options(page: ChatContext, chat: Chat) -> Values:
    """``chat/_options.html``, the same for all chats with the same settings: the page adds the chat's id. ``base``: the
    preset's values as JSON, which the form sends back; ``fingerprint`` changes if the panel would look different.
    ``states`` is empty if there is no choice."""
    t, preset = page.t, page.presets.of_chat(chat)
    base = preset_values(page, chat)
    set_here = {*preset.sampling}
    published = published_sampling(page.model, _mode(page, preset, chat))
    origins = {name: key for name, key in published.origins.items() if name not in set_here}
    knobs = [_knob(row, t, base, chat, origins) for row in SAMPLING]
    more = [knob for row, knob in zip(SAMPLING, knobs, strict=True) if not row.is_common]
    names = _names_set_by(preset, t)
    found = {
        "base": json.dumps({name: _written(value) for name, value in base.items()}),
        "presets": preset_groups(page, chat),
        "preset_note": shown_note(preset, t),
        "preset_sets": t("chat.options.preset_sets", names=names) if names else "",
        "preset_url": f"/presets/{preset.id}",
        "system_prompt": chat.system_prompt,
        "system_prompt_placeholder": preset.system_prompt[:PLACEHOLDER_CHARS],
        "knobs": [knob for knob in knobs if knob not in more],
        "more": more,
        "is_more_open": any(knob["is_changed"] for knob in more),
        "templates": _templates(page, chat),
        "states": _states(page, chat, preset),
        "name_hint": t("chat.options.save_as_hint", name=shown_name(preset, t)),
        "tools": _tool_options(page, chat, preset),
    }
    return {**found, "fingerprint": hashlib.sha256(repr(found).encode()).hexdigest()[:16]}


def preset_groups(page: ChatContext, chat: Chat) -> list[tuple[str, list[Choice]]]:
    """First the entry for the active preset, then a person's own, then the shipped ones."""
    t, found = page.t, page.presets.list()
    is_known = any(preset.id == chat.preset_id for preset in found)
    active = t("chat.options.preset_active", name=shown_name(page.presets.active(), t))
    groups = [("", [Choice("", active, is_chosen=not is_known)])]
    for label, is_shipped in (("presets_own", False), ("presets_shipped", True)):
        some = [preset for preset in found if bool(preset.shipped_key) is is_shipped]
        choices = [Choice(row.id, shown_name(row, t), is_chosen=row.id == chat.preset_id) for row in some]
        groups += [(t(f"chat.options.{label}"), choices)] if choices else []
    return groups


def _names_set_by(preset: Preset, t: Translator) -> str:
    """The parameters that a preset sets, in the reader's language."""
    names = [*preset.sampling, *preset.options]
    fields = ("system_prompt", "stop", "template", "tools", "tool_dialect", "model", "strategy", "state")
    names += [name for name in fields if getattr(preset, name)]
    return labels([*names, *(["think_mode"] if preset.think_mode != ThinkMode.NONE.value else [])], t)


def _knob(row: Parameter, t: Translator, base: dict[str, Any], chat: Chat, origins: Mapping[str, str]) -> Values:
    """One sampling parameter. ``kind``: slider (with a number field), number (may be empty) or switch. ``default``: the
    preset's value, which a click on the dot restores; a value beyond the slider extends it."""
    value, default = _written(chat.sampling.get(row.name, base[row.name])), _written(base[row.name])
    number = float(default) if default not in ("", "true", "false") else 0.0
    return {
        "name": row.name,
        "kind": "switch" if row.kind == "bool" else "slider" if row.has_slider else "number",
        "label": t(row.label_key),
        "help": " ".join(text for text in (t(row.help_key), origin_of(t, row, origins)) if text),
        "value": value,
        "default": default,
        "is_changed": value != default,
        "at_least": plain(row.least),
        "at_most": plain(row.most),
        "step": plain(row.step),
        "range_least": plain(min(row.slider_least, number)),
        "range_most": plain(max(row.slider_most, number)),
        "is_whole": row.kind == "int",
    }


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return plain(value) if isinstance(value, (int, float)) else str(value)


def _choices(rows: Iterable[tuple[str, str]], chosen: str) -> list[Choice]:
    return [Choice(value, label, is_chosen=value == chosen) for value, label in rows]


def _templates(page: ChatContext, chat: Chat) -> list[Choice]:
    t, auto = page.t, _chat_template(page, replace(chat, template=""))
    follow = t("chat.options.template_from_preset", name=t(f"chat.template.{auto.name}"))
    names = [row.name for row in all_templates()]
    if chat.template == OWN or (page.model is not None and chat_template(page.model)):
        names.append(OWN)
    rows = [("", follow), *((name, t(f"chat.template.{name}")) for name in names)]
    return _choices(rows, chat.template)


def _chat_template(page: ChatContext, chat: Chat) -> PromptTemplate:
    """The template of its next answer (G1x if no model can be read)."""
    preset = page.presets.of_chat(chat)
    chosen = chosen_tools(chat, preset, page.database)
    offered = OfferedTools(G1X_JSON, ({"name": "any"},) if chosen.is_on else ())
    if page.model is None:
        names = [name for name in (chat.template, preset.template) if name and name != OWN]
        return template(names[0] if names else "g1x")
    return format_of(page.model, (chat.template, preset.template), offered, chosen.dialect)[0]


def _states(page: ChatContext, chat: Chat, preset: Preset) -> list[Choice]:
    """Empty if there is no choice."""
    t, names = page.t, page.state_names()
    if not names and chat.state is None and not preset.state:
        return []
    words = {"": t("presets.choice.state.own"), ZERO_STATE: t("presets.choice.state.zero")}
    follow = t("chat.options.state_from_preset", name=words.get(preset.state, preset.state))
    rows = [(FROM_PRESET, follow), *words.items(), *((name, name) for name in names)]
    chosen = FROM_PRESET if chat.state is None else chat.state
    if chosen not in dict(rows):
        rows.append((chosen, chosen))
    return _choices(rows, chosen)


def _tool_options(page: ChatContext, chat: Chat, preset: Preset) -> Values:
    """The chat's tools for its model; ``shown`` represents them as text, so that the form can detect changes.
    ``warning``: the model is not known to call tools well. The dialect is the chat's own; without one, the preset or
    the model decides."""
    t, model = page.t, page.status.model
    chosen = chosen_tools(chat, preset, page.database)
    chosen = replace(chosen, dialect=chat.tools.dialect if chat.tools.is_own else "")
    dialects = [("", t("chat.tools.dialect_auto")), *((d.name, t(f"tools.dialect.{d.name}")) for d in all_dialects())]
    return {
        "shown": tools_shown(chosen),
        "tools": [
            Choice(tool.id, tool.definition.name, is_chosen=tool.id in chosen.tool_ids) for tool in page.tools.list()
        ],
        "dialects": _choices(dialects, chosen.dialect),
        "is_free": chosen.is_free,
        "warning": "" if not model or is_known_to_call(model) else t("chat.tools.unknown_model", model=model),
    }


# next to the composer


def thinking(page: ChatContext, chat: Chat) -> Values:
    """``chat/_thinking.html``. ``modes`` is empty if the model has no such switch."""
    chosen = think_mode_of(chat, page.presets.of_chat(chat))
    modes = _chat_template(page, chat).think_modes
    choices = [Choice(mode.value, page.t(f"chat.think.{mode.value}"), is_chosen=mode is chosen) for mode in modes]
    is_set = chosen is not ThinkMode.NONE and chosen in modes
    return {"modes": choices if len(choices) > 1 else [], "is_set": is_set}


def tool_switch(page: ChatContext, chat: Chat) -> Values | None:
    """``chat/_tool_switch.html``; None if there are no tools to offer."""
    is_on = chosen_tools(chat, page.presets.of_chat(chat), page.database).is_on
    return {"is_on": is_on} if is_on or page.tools.list() else None


def load_offer(page: ChatContext, chat: Chat) -> Values:
    """``chat/_load_offer.html``: the chat's preset needs another model or strategy than the loaded one. ``do`` is the
    command that loads it; if that is impossible, ``hint`` says why, or ``url`` is a page that helps."""
    t, status, preset = page.t, page.status, page.presets.of_chat(chat)
    names = page.presets.differences(preset)
    if not names or status.phase in ("loading", "unloading"):
        return NO_OFFER
    words = {"preset": shown_name(preset, t), "loaded": status.model or t("status.no_model")}
    words |= {"model": file_name(preset.model), "names": labels(names, t)}
    problem = page.presets.problem(preset)
    if isinstance(problem, ModelNotFound):
        return {"is_shown": True, "text": t("chat.offer.missing", **words), "url": "/models"}
    if problem is not None:
        return {"is_shown": True, "text": t("chat.offer.cannot", **words), "hint": page.sentences(problem)}
    key = "other_model" if "model" in names else "other_options"
    return {"is_shown": True, "text": t(f"chat.offer.{key}", **words), "do": f"load_preset:{preset.id}"}
