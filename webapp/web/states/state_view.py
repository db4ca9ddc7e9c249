"""Views of a state: its strength in each layer and head, what an answer changed, its distance from another state.
Everything is computed here as SVG paths in nine strengths: the pages need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flask import url_for

from webapp.errors import RoostError
from webapp.i18n import size_text
from webapp.services.chat.probes import state_of_chat
from webapp.services.downloads.catalogue import trained_context
from webapp.services.states import StateEntry
from webapp.storage.chats import ChatStore
from webapp.web.chat.sidebars import title_of
from webapp.web.kit.page import PageContext, Values
from webapp.weights.state_sheet import StateMeasures, measure

LEVELS = 9
TALL_ROWS = 16
READY = ("ready", "answering")
Table = Sequence[Sequence[float]]


def short(norm: float) -> str:
    return f"{norm:.3g}"


def heat_map(page: PageContext, values: Table, title: str) -> Values:
    """``states/_heat.html``: one row per layer, one column per head. A cell's strength is the square root of its value
    divided by the largest, so that weak heads are visible."""
    most = max((max(row) for row in values), default=0.0)
    paths: list[list[str]] = [[] for _ in range(LEVELS)]
    for y, row in enumerate(values):
        levels = [math.ceil(LEVELS * math.sqrt(value / most)) if most > 0 else 0 for value in row]
        x = 0
        while x < len(levels):
            run = next((n for n in range(x, len(levels)) if levels[n] != levels[x]), len(levels)) - x
            if levels[x]:
                paths[min(levels[x], LEVELS) - 1].append(f"M{x} {y}.5h{run}")
            x += run
    columns, least = max(map(len, values), default=0), min((min(row) for row in values), default=0.0)
    words = {"layers": len(values), "heads": columns, "least": short(least), "most": short(most)}
    return {
        "title": title,
        "view_box": f"0 0 {columns} {len(values)}",
        "is_tall": len(values) > TALL_ROWS,
        "label": page.t("states.view.range", **words),
        "paths": [(f"{(n + 1) / LEVELS:.2f}", "".join(path)) for n, path in enumerate(paths) if path],
    }


def measured(page: PageContext, found: StateMeasures, second: str = "") -> Values:
    """``states/_measures.html``. ``second``: a description of the state it is compared with, or ""."""
    t, has_second = page.t, bool(found.differences)
    pairs = [(t("states.view.norm"), short(found.norm))]
    maps = [heat_map(page, found.norms, t("states.view.strength"))]
    if has_second:
        share = found.difference / found.norm if found.norm else 0.0
        pairs += [
            (t("states.view.difference"), t("states.view.share", value=short(found.difference), share=f"{share:.1%}")),
            (t("states.view.cosine"), _cosine(page, found.cosine)),
        ]
        maps.append(heat_map(page, found.differences, second))
    rows = []
    for layer, norms in enumerate(found.norms):
        row = [str(layer), short(math.hypot(*norms))]
        if has_second:
            row += [short(math.hypot(*found.differences[layer])), _cosine(page, found.layer_cosines[layer])]
        rows.append(row)
    return {"maps": maps, "pairs": pairs, "rows": rows, "has_second": has_second}


def file_view(page: PageContext, entry: StateEntry, other: str) -> Values | None:
    """For a state file on its own page, compared with ``other`` if chosen; None if it cannot be read."""
    if entry.sheet is None:
        return None
    states, error = page.states, ""
    try:
        found = states.measures(entry.name, other)
    except RoostError as exc:
        error, other = page.sentences(exc), ""
        found = states.measures(entry.name)
    prefix, view = entry.sheet.prefix, measured(page, found, page.t("states.view.apart", name=other))
    tokens = page.t("states.view.tokens_unknown") if prefix is None else str(prefix.tokens)
    return {
        **view,
        "pairs": [(page.t("states.view.tokens"), tokens), *view["pairs"]],
        "context": context_note(page, prefix.model, prefix.tokens) if prefix else None,
        "others": _others(page, entry.name),
        "other": other,
        "error": error,
        "url": url_for("states.details", name=entry.name),
    }


def chat_state_page(page: PageContext, chat_id: str, other: str) -> Values:
    """``states/chat.html``. ``view`` is None if there is no state to show; ``reason`` says why."""
    store, phase = ChatStore(page.database, page.person.id), page.status.phase
    chat = store.get(chat_id)
    shown: Values = {
        "page_title": page.t("states.view.title"),
        "title": title_of(chat.title, page.t),
        "chat_url": url_for("chat.chat", chat_id=chat_id),
        "chat_id": chat_id,
        "view": None,
        "can_load": phase not in (*READY, "loading"),
        "reason": page.t("states.view.loading" if phase == "loading" else "states.view.not_loaded"),
    }
    if phase not in READY:
        return shown
    try:
        found = state_of_chat(page.manager, store, page.presets, chat_id)
    except RoostError as exc:
        return {**shown, "reason": page.sentences(exc)}
    if found is None:
        return {**shown, "reason": page.t("states.view.nothing_kept")}
    second, words, error = found.before, "", ""
    if second is not None:
        words = page.t("states.view.changed", first=found.before_tokens + 1, last=found.tokens)
    if other:
        try:
            named = page.manager.state_named(other)
            second, words = named or second, page.t("states.view.apart", name=other)
        except RoostError as exc:
            error, other = page.sentences(exc), ""
    view = measured(page, measure(found.state.arrays, second.arrays if second is not None else None), words)
    about = [
        (page.t("states.view.tokens"), page.t("states.view.tokens_of", tokens=found.tokens, total=found.total)),
        (page.t("states.view.bytes"), size_text(found.state.nbytes)),
        (page.t("states.view.model"), page.status.model),
    ]
    view |= {
        "pairs": [*about, *view["pairs"]],
        "context": context_note(page, page.status.model, found.tokens),
        "others": _others(page, ""),
        "other": other,
        "error": error,
        "url": url_for("states.of_chat"),
    }
    return {**shown, "view": view}


def context_note(page: PageContext, model: str, tokens: int) -> Values:
    """Compares the number of tokens in the state with the context length in training, if that is known."""
    trained = trained_context(model)
    words = {"tokens": tokens, "trained": trained or 0, "model": model}
    if trained is None:
        return {"kind": "", "title": "", "text": page.t("states.view.trained_unknown", **words)}
    if tokens > trained:
        text = page.t("states.view.beyond_text", **words)
        return {"kind": "warn", "title": page.t("states.view.beyond", **words), "text": text}
    return {"kind": "", "title": "", "text": page.t("states.view.within", **words)}


def _others(page: PageContext, name: str) -> list[dict[str, Any]]:
    """State files to compare with."""
    names = [each for each in page.states.names() if each != name]
    first = [{"value": "", "label": page.t("states.view.none")}] if names else []
    return first + [{"value": each, "label": each} for each in names]


def _cosine(page: PageContext, value: float | None) -> str:
    return str(page.t("states.view.no_angle")) if value is None else f"{value:.4f}"
