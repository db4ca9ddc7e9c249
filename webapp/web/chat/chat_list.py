"""The list of chats, the page of all chats and search results, as plain values for their templates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone, tzinfo

from webapp.storage.records import ChatSummary, SearchHit
from webapp.web.chat.live import ChatContext
from webapp.web.kit.page import Choice, Toast, Translator, Values, browser_zone
from webapp.web.presets.form import shown_name

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
