"""The list of chats and what a search found, as contexts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from webapp.storage.records import ChatSummary, SearchHit
from webapp.web.chat.contexts import ChatList, ExcerptPart, Hit, ListGroup, ListItem, SearchResults
from webapp.web.chat.house import House

PAGE = 20
MOST = 2000
HITS = 40


def chat_list(house: House, t: Callable[..., str], current_id: str = "", count: int = PAGE) -> ChatList:
    """The ``count`` chats last used, grouped by day."""
    count = min(max(count, PAGE), MOST)
    found = house.store.list(limit=count + 1)
    shown = found[:count]
    groups = [
        ListGroup(t(f"chat.list.{age}"), tuple(_item(house, t, row, current_id) for row in rows))
        for age, rows in by_age(shown, time.time()).items()
        if rows
    ]
    more = count + PAGE if len(found) > count else 0
    return ChatList(tuple(groups), more, count if count > PAGE else 0)


def by_age(rows: Iterable[ChatSummary], now: float) -> dict[str, list[ChatSummary]]:
    """Today, yesterday and earlier, by the server's calendar; order within each is kept."""
    today = datetime.fromtimestamp(now).date()
    found: dict[str, list[ChatSummary]] = {"today": [], "yesterday": [], "earlier": []}
    for row in rows:
        day = datetime.fromtimestamp(row.updated_at).date()
        age = "today" if day >= today else "yesterday" if day == today - timedelta(days=1) else "earlier"
        found[age].append(row)
    return found


def search_results(house: House, t: Callable[..., str], query: str) -> SearchResults:
    query = query.strip()
    if not query:
        return SearchResults("")
    found = house.store.search(query, HITS + 1)  # of titles and of messages each
    titles = [hit for hit in found if not hit.message_id]
    messages = [hit for hit in found if hit.message_id]
    shown = tuple(_hit(t, hit) for hit in titles[:HITS] + messages[:HITS])
    return SearchResults(query, shown, is_cut=len(shown) < len(found))


def excerpt_parts(excerpt: str, positions: Iterable[tuple[int, int]]) -> tuple[ExcerptPart, ...]:
    parts, done = [], 0
    for start, end in positions:
        parts += [ExcerptPart(excerpt[done:start]), ExcerptPart(excerpt[start:end], is_match=True)]
        done = end
    parts.append(ExcerptPart(excerpt[done:]))
    return tuple(part for part in parts if part.text)


def title_of(title: str, t: Callable[..., str]) -> str:
    return title or t("chat.list.untitled")


def _item(house: House, t: Callable[..., str], row: ChatSummary, current_id: str) -> ListItem:
    is_answering = house.answering(row.id) is not None
    return ListItem(row.id, title_of(row.title or row.snippet[:60], t), row.id == current_id, is_answering)


def _hit(t: Callable[..., str], hit: SearchHit) -> Hit:
    url = f"/chat/{hit.chat_id}"
    if hit.message_id:
        url += f"?at={hit.message_id}#m-{hit.message_id}"
    return Hit(url, title_of(hit.title, t), excerpt_parts(hit.excerpt, hit.positions))
