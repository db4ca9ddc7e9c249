"""The whole page of one chat, as its context."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from webapp.errors import RoostError
from webapp.storage.records import Chat, ChatSummary, SearchHit, StoredMessage
from webapp.web.chat.contexts import (
    ChatList,
    ChatPage,
    ChatTitle,
    ExcerptPart,
    Hit,
    ListGroup,
    ListItem,
    Messages,
    MessageView,
    SearchResults,
    SuggestedPrompt,
    Welcome,
)
from webapp.web.chat.house import House
from webapp.web.chat.message_view import message_view
from webapp.web.chat.options_form import NEW_CHAT
from webapp.web.chat.options_view import composer_context, load_offer, options_context
from webapp.web.kit.page import Toast, parameters_text
from webapp.web.presets.names import shown_name

SHOWN_MESSAGES = 40
PROMPTS = ("first", "second", "third")
STARTER_PREFIX = "roost-starter"


def chat_page(
    house: House,
    t: Callable[..., str],
    locale: str,
    chat: Chat = NEW_CHAT,
    at: str = "",
    toasts: tuple[Toast, ...] = (),
    text: str = "",
) -> ChatPage:
    """``at`` is a message a search found; ``text`` stands in the composer."""
    branch = house.store.branch(chat.id) if chat.id else []
    title = title_of(chat.title, t) if chat.id else t("chat.list.new")
    return ChatPage(
        chat_id=chat.id,
        page_title=f"{title} · {t('app.name')}",
        chats=chat_list(house, t, chat.id),
        head=chat_title(house, t, chat),
        conversation=conversation(house, t, locale, chat.id, branch, at=at),
        welcome=Welcome() if branch else welcome(house, t),
        composer=composer_context(house, t, chat, text),
        options=options_context(house, t, chat),
        offer=load_offer(house, t, locale, chat),
        elsewhere=f"select:{at}" if at and at not in {row.id for row in branch} else "",
        toasts=toasts,
    )


def chat_title(house: House, t: Callable[..., str], chat: Chat) -> ChatTitle:
    """With the name of the preset that answers."""
    title = title_of(chat.title, t) if chat.id else t("chat.list.new")
    return ChatTitle(chat.id, title, shown_name(house.presets.of_chat(chat), t))


def conversation(
    house: House,
    t: Callable[..., str],
    locale: str,
    chat_id: str,
    branch: Sequence[StoredMessage],
    before: str = "",
    at: str = "",
) -> Messages:
    """The last messages of a branch (all from ``at`` on, if that is more), or those that lie above ``before``."""
    ids = [row.id for row in branch]
    end = ids.index(before) if before in ids else len(ids)
    start = max(0, end - SHOWN_MESSAGES)
    if at in ids:
        start = min(start, ids.index(at))
    views = message_views(house, t, locale, branch, range(start, end))
    return Messages(chat_id, tuple(views), ids[start] if start else "")


def message_views(
    house: House, t: Callable[..., str], locale: str, branch: Sequence[StoredMessage], wanted: Sequence[int]
) -> list[MessageView]:
    return [message_view(branch[i], house, t, locale, tokens_known_before(branch, i)) for i in wanted]


def tokens_known_before(branch: Sequence[StoredMessage], index: int) -> int:
    """How many tokens of this branch an earlier turn had read or written when ``branch[index]`` was asked for."""
    for stored in reversed(branch[:index]):
        if stored.stats.get("decoded_tokens"):
            read_and_written = int(stored.stats.get("prompt_tokens", 0)) + int(stored.stats["decoded_tokens"])
            return read_and_written - 1  # the last token written was never read
    return 0


def welcome(house: House, t: Callable[..., str]) -> Welcome:
    prompts = tuple(SuggestedPrompt(t(f"chat.welcome.{n}.title"), t(f"chat.welcome.{n}.text")) for n in PROMPTS)
    is_starter, name, parameters = model_words(house, t)
    intro = "starter" if is_starter else "model" if name else "none"
    words = {"parameters": parameters, "model": name}
    return Welcome(True, t("chat.welcome.title"), t(f"chat.welcome.intro_{intro}", **words), prompts)


def model_words(house: House, t: Callable[..., str]) -> tuple[bool, str, str]:
    """(is it the starter model, its name, its parameters in words); the name "" when there is no model."""
    status = house.manager.status()
    try:
        info = house.manager.model_info()
    except RoostError:
        return False, "", ""
    return status.model.startswith(STARTER_PREFIX), status.model, parameters_text(info, t)


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
