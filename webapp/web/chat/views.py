"""The content of the chat page, as plain values for its templates: the whole page and the messages of a branch.

Texts from people are plain ``str`` (the template escapes them); ``Markup`` is HTML that :mod:`webapp.web.kit.markdown`
has sanitised.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2s
from pathlib import Path
from typing import Any

from markupsafe import Markup
from msgspec.structs import replace

from webapp.chat.messages import AttachedFile, Beside, Finished, ReadMode, Role, Waiting, attached_files
from webapp.errors import STATUSES, RoostError, WeightsError, error_from_dict
from webapp.i18n import say, size_text
from webapp.services.attachments import DOCUMENT_BYTES, WHOLE_TOKENS
from webapp.services.chat.probes import AnswerToken
from webapp.services.chat.tool_loop import CALLS, CallState, as_pretty_json, is_known_to_call
from webapp.services.chat.turn_writer import LiveTurn
from webapp.services.chat.turns import REWRITTEN, can_continue
from webapp.services.downloads.catalogue import trained_context
from webapp.services.generation.completions import END_OF_TEXT
from webapp.services.presets.presets import file_name
from webapp.storage.attachments import Attachment
from webapp.storage.records import Chat, StoredMessage
from webapp.tools.definition import Approval
from webapp.web.chat.live import ChatContext
from webapp.web.chat.sidebars import chat_list, load_offer, panel_of, preset_groups, title_of, tool_switch
from webapp.web.guard import current_role
from webapp.web.jobs import strip_jobs
from webapp.web.kit.page import Toast, Translator, Values, parameters_text
from webapp.web.models.downloads import best_offer
from webapp.web.presets.form import shown_name
from webapp.web.prompts import face, find_persona, personas_of
from webapp.web.roles import least_role
from webapp.web.status import menu, strip

SHOWN_MESSAGES = 40
PAGE_OR_DRAWING = re.compile(r"\s*<(!doctype html|html|svg)\b", re.IGNORECASE)
"""Matches an answer that is HTML or SVG without a fence around it."""
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
PROMPTS = ("first", "second", "third")
STARTER_PREFIX = "roost-starter"
SHOWN_PERSONAS = 12
NEEDS_MODEL = {"model_not_found", "no_model", "load_failed", "crash_loop", "out_of_memory", "model_does_not_fit"}
NEEDS_MODEL |= {"strategy_invalid", "file_not_found", "state_not_found", "file_reading_failed", *STATUSES[WeightsError]}
"""Errors that another model may not have."""


# the page


def chat_page(page: ChatContext, chat: Chat, at: str, toasts: tuple[Toast, ...], text: str) -> Values:
    """``chat/page.html``; the chat's id is "" until its first message. ``at``: a message found by a search;
    ``elsewhere``: the command that shows its version, if that is not shown; ``text``: the text in the composer."""
    branch = page.store.branch(chat.id) if chat.id else []
    head, panel = chat_title(page, chat), panel_of(page, chat)
    return {
        "chat_id": chat.id,
        "page_title": f"{head['title']} · {page.t('app.name')}",
        "chats": chat_list(page, chat.id),
        "head": head,
        "conversation": conversation(page, chat.id, branch, at=at),
        "welcome": {"is_shown": False} if branch else welcome(page, chat),
        "persona_id": chat.persona_id,
        "composer": {
            "chat_id": chat.id,
            "is_answering": page.answering(chat.id) is not None,
            "thinking": panel.thinking,
            "tools": tool_switch(page, chat),
            "attached": attached(page, chat.id),
            "text": text,
            "file_bytes": DOCUMENT_BYTES,
            "counts": COUNTS,
            "count": token_count(page, chat, text),
        },
        "options": Markup(panel.html),
        "offer": load_offer(page, chat),
        "elsewhere": f"select:{at}" if at and at not in {row.id for row in branch} else "",
        "toasts": toasts,
    }


def token_count(page: ChatContext, chat: Chat, text: str) -> Values:
    """``chat/_count.html``: the tokens of the typed text, and those of the chat next to its model's trained context
    length. ``used`` is 0 if unknown: no answer yet, or from elsewhere."""
    view: Values = {"typed": 0, "used": 0}
    if text.strip() and page.model is not None:
        with contextlib.suppress(RoostError):  # an unreadable vocabulary is reported where it is needed
            view["typed"] = len(page.manager.tokenizer().encode(text))
    if chat.head_id is not None:
        with contextlib.suppress(RoostError):  # message deleted meanwhile
            stats = page.store.message(chat.head_id).stats
            view["used"] = stats.get("prompt_tokens", 0) + stats.get("decoded_tokens", 0)
    if not view["used"]:
        return view
    model = file_name(page.status.model)
    trained, total = trained_context(model), view["used"] + view["typed"]
    words = {"tokens": f"{total:,}", "trained": f"{trained or 0:,}", "model": model}
    how = "unknown" if trained is None else "beyond" if total > trained else "within"
    rest = {"within": "chat.composer.within_text", "beyond": "states.view.beyond_text"}.get(how, "")
    why = [
        page.t(f"states.view.{'trained_unknown' if trained is None else how}", **words),
        page.t(rest) if rest else "",
    ]
    words["tokens"] = f"{view['used']:,}"
    shown = page.t(f"chat.composer.used_{'unknown' if trained is None else 'known'}", **words)
    return {**view, "shown": shown, "how": how, "why": " ".join(filter(None, why))}


def chat_title(page: ChatContext, chat: Chat) -> Values:
    """Includes the name of the preset in use."""
    title = title_of(chat.title, page.t) if chat.id else page.t("chat.list.new")
    persona = find_persona(page, chat.persona_id)
    return {
        "id": chat.id,
        "title": title,
        "preset": shown_name(page.presets.of_chat(chat), page.t),
        "persona": face(persona) if persona else None,
    }


def switcher(page: ChatContext, chat: Chat) -> Values:
    """``chat/_switch.html``: the presets with the chat's own marked, the models with the loaded one marked.
    ``loading``: the progress of a load, "" if there is none."""
    models, now = menu(page), strip(page.status, page.t)
    return {
        "chat_id": chat.id,
        "presets": preset_groups(page, chat),
        "models": models["models"],
        "can_load": current_role() >= least_role("status.load"),
        "is_changing": models["is_changing"],
        "loading": now["word"] if models["is_changing"] else "",
        "percent": now["percent"],
        "error": " ".join(filter(None, (models["error_message"], models["error_hint"]))),
    }


def welcome(page: ChatContext, chat: Chat) -> Values:
    """The text of a chat without messages; with a persona it is the persona's greeting."""
    persona = find_persona(page, chat.persona_id)
    t, model = page.t, page.status.model if page.model else ""
    intro = "none" if not model else "starter" if model.startswith(STARTER_PREFIX) else "model"
    offer = best_offer(page) if intro != "model" else None
    parameters = parameters_text(page.model, t) if page.model else ""
    return {
        "is_shown": True,
        "persona": face(persona) if persona else None,
        "greeting": persona.body.get("greeting", "") if persona else "",
        "personas": [face(one) for one in personas_of(page).list()[:SHOWN_PERSONAS]],
        "title": persona.name if persona else t("chat.welcome.title"),
        "intro": t(f"chat.welcome.intro_{intro}", parameters=parameters, model=model),
        "offer": offer,
        "own": own_model(page),
        "prompts": [
            {"title": t(f"chat.welcome.{number}.title"), "text": t(f"chat.welcome.{number}.text")} for number in PROMPTS
        ],
    }


def own_model(page: ChatContext) -> Values:
    """``chat/_own.html``: the newest model in the library while only the starter is in use.

    Its page asks again when a person returns to it, and every two seconds while something ``is_coming``: a job runs,
    or the newest file cannot be read yet. Uses the index of the folders, and inspects a file once.
    """
    is_first = not page.model or page.status.model.startswith(STARTER_PREFIX)
    shown = {"is_followed": is_first, "is_coming": False, "name": "", "text": ""}
    if not is_first:
        return shown
    library = page.manager.library
    files = [file for file in library.known_files() if not file.path.name.startswith(STARTER_PREFIX)]
    files = sorted(files, key=lambda file: _created_at_ns(file.path), reverse=True)[:MAX_INSPECTED]
    for file in files:
        found = library.look_into(file).inspection
        if found is not None and found.config is not None:
            words = {"name": file.name, "version": found.config.architecture, "size": size_text(file.size_bytes)}
            shown |= {"name": file.name, "text": page.t("chat.welcome.found", **words)}
            break
    is_copied = (
        bool(files) and shown["name"] != files[0].name and time.time_ns() - _created_at_ns(files[0].path) < COMING_NS
    )
    return {**shown, "is_coming": is_copied or strip_jobs(page)["is_busy"]}


MAX_INSPECTED = 8
COMING_NS = 60 * 10**9
"""An unreadable file does not count as being copied any more if it has not changed for this time."""


def _created_at_ns(path: Path) -> int:
    """When it was put there, in ns: a copied or moved file keeps its old date, which may be years ago."""
    try:
        return path.stat().st_ctime_ns
    except OSError:
        return 0


# the messages of a branch


def conversation(
    page: ChatContext, chat_id: str, branch: Sequence[StoredMessage], before: str = "", at: str = ""
) -> Values:
    """``chat/_messages.html``: the last messages of a branch (all from ``at`` on, if that is more), or those above
    ``before``. ``older_id``: the first of them if there are more above."""
    ids = [row.id for row in branch]
    end = ids.index(before) if before in ids else len(ids)
    start = max(0, end - SHOWN_MESSAGES)
    if at in ids:
        start = min(start, ids.index(at))
    views = message_views(page, branch, range(start, end))
    return {"chat_id": chat_id, "messages": views, "older_id": ids[start] if start else ""}


def message_views(page: ChatContext, branch: Sequence[StoredMessage], wanted: Sequence[int]) -> list[Values]:
    return [message_view(page, branch[i]) for i in wanted]


def message_view(page: ChatContext, stored: StoredMessage, is_card: bool = False) -> Values:
    """The values for ``template``. ``is_card``: one of several answers side by side; without it, the last answer of a
    branch that is one of several represents all of them.

    ``fingerprint`` changes if the fragment would look different, apart from streamed text: the page sends it back after
    a reconnect, so that only differences are rendered again.
    """
    view: Values = {"id": stored.id, "fingerprint": fingerprint(stored), "text": stored.message.content}
    if stored.message.role is Role.USER:
        files = [_file_chip(file, stored.chat_id, page.t) for file in attached_files(stored.message)]
        view["html"] = as_written(stored.message.content)
        return {**view, "template": "chat/_user_message.html", "versions": _versions(stored), "files": files}
    if stored.message.role is Role.TOOL:  # shown with its call
        return {**view, "template": "chat/_tool_message.html"}
    if Beside.of(stored.message) is not None and not is_card and page.store.get(stored.chat_id).head_id == stored.id:
        members = page.turns.beside.undecided(stored)
        if members:
            return group_view(page, members)
    view |= {"template": "chat/_answer.html", "is_card": is_card}
    if is_card:
        view |= _card_values(page, stored) | {"template": "chat/_card.html"}
    turns = page.turns.answers(stored.chat_id) if stored.status == "streaming" else []
    turn = next((turn for turn in turns if turn.message_id == stored.id), None)
    if turn is not None:
        if turn.failure is None:
            return view | _live_values(page, turn)
        # The end could not be stored either (a full disk): otherwise the page would show nothing at all.
        return view | _answer_values(page, replace(stored, status="failed", error=turn.failure))
    view |= _answer_values(page, stored)
    if not stored.message.tool_calls or stored.status == "streaming":
        return view
    cards = [call_card(state, page.t, page.locale) for state in page.turns.tools.calls(stored)]
    is_last = page.store.get(stored.chat_id).head_id == stored.id and not is_card
    are_done = all(card["status"] == "done" for card in cards)
    return view | {
        "calls": cards,
        "can_resume": are_done and is_last and page.answering(stored.chat_id) is None,  # and nothing follows
        "fingerprint": fingerprint(stored, page.turns.tools.running(stored.id), is_last),
    }


def _card_values(page: ChatContext, stored: StoredMessage) -> Values:
    beside = Beside.of(stored.message)
    assert beside is not None
    is_voted = page.turns.beside.voted(stored, beside) == stored.id
    return {"number": beside.place + 1, "label": beside.variant.label, "group": beside.group, "is_voted": is_voted}


def group_view(page: ChatContext, members: Sequence[StoredMessage]) -> Values:
    """``chat/_beside.html``: answers side by side, from which a person keeps some."""
    first = members[0]
    beside = Beside.of(first.message)
    assert beside is not None
    name, seen = group_print(page, members)
    cards = [message_view(page, row, is_card=True) for row in members]
    return {
        "id": name,
        "fingerprint": seen,
        "template": "chat/_beside.html",
        "text": "",
        "group": beside.group,
        "first_id": first.id,
        "chat_id": first.chat_id,
        "cards": cards,
    }


def group_print(page: ChatContext, members: Sequence[StoredMessage]) -> tuple[str, str]:
    """Their frame's id and its fingerprint: the members, a dot, and the progress of each."""
    beside = Beside.of(members[0].message)
    assert beside is not None
    made_of = ([row.id for row in members], page.turns.beside.voted(members[0], beside))
    states = [(row.status, row.finish_reason, row.stats) for row in members]
    prints = (blake2s(repr(part).encode("utf-8", "replace"), digest_size=6).hexdigest() for part in (made_of, states))
    return f"g{beside.group}", ".".join(prints)


def is_same_group(before: str, now: str) -> bool:
    """Compares fingerprints: True for the same answers, whatever their progress."""
    return before.partition(".")[0] == now.partition(".")[0]


def fingerprint(stored: StoredMessage, running: tuple[str, ...] = (), is_last: bool = False) -> str:
    """Covers everything in the fragment except streamed text. ``running``: the ids of its running calls; ``is_last``:
    no message follows, so an answer with calls may offer to continue."""
    parts: list[Any] = [stored.id, stored.status, stored.finish_reason, stored.version, stored.version_count, running]
    parts += [stored.previous_version_id, stored.next_version_id]
    if stored.status != "streaming":
        parts += [stored.message.content, stored.message.reasoning, stored.stats]
        parts += [stored.message.tool_calls, stored.message.metadata.get(CALLS)]
    if stored.message.tool_calls:
        parts.append(is_last)
    return blake2s(repr(parts).encode("utf-8", "replace"), digest_size=6).hexdigest()


def _live_values(page: ChatContext, turn: LiveTurn) -> Values:
    """Values of a running answer."""
    rendering = page.renderings.of(turn)
    view = rendering.advance()
    content, reasoning = rendering.since("content", 0), rendering.since("reasoning", 0)
    is_waiting = not view.has_reasoning and not content.final and not content.tail
    return {
        "text": "",
        "html": Markup(content.final),
        "tail": Markup(content.tail),
        "reasoning_html": Markup(reasoning.final),
        "reasoning_tail": Markup(reasoning.tail),
        "has_reasoning": view.has_reasoning,
        "is_thinking": view.is_thinking,
        "is_streaming": True,
        "waiting": waiting_text(view.waiting, page.t) if is_waiting or view.waiting else "",
    }


def waiting_text(waiting: Waiting | None, t: Translator) -> str:
    if waiting is None or (waiting.phase == "silent" and not waiting.done):
        return t("chat.waiting.starting")
    if waiting.phase == "loading":
        percent = int(100 * waiting.done / waiting.total) if waiting.total else 0
        return t("chat.waiting.loading", percent=percent)
    if waiting.phase in ("queued", "silent"):
        return t(f"chat.waiting.{waiting.phase}", count=waiting.done)
    if waiting.phase == "calling":
        return t("chat.waiting.calling")
    return t("chat.waiting.reading", done=waiting.done, total=waiting.total)


def _answer_values(page: ChatContext, stored: StoredMessage) -> Values:
    """Values of an answer that is complete, stopped or failed. ``stats``: the grey figures below it."""
    message, t = stored.message, page.t
    is_imported = stored.status == "complete" and not stored.finish_reason and REWRITTEN not in message.metadata
    notes = {"was_cut": stored.finish_reason == "length", "stopped": stored.status == "stopped"}
    notes |= {"edited": REWRITTEN in message.metadata and not any(notes.values())}
    return {
        "html": rendered(message.content),
        "reasoning_html": rendered(message.reasoning),
        "has_reasoning": bool(message.reasoning.strip()),
        "versions": _versions(stored),
        "stats": _figures(stored.stats, t),
        "note": next((t(f"chat.message.{note}") for note, is_so in notes.items() if is_so), ""),
        "failure": _failure(page, stored),
        "has_tokens": bool(message.token_ids),
        "can_edit": not message.tool_calls,
        "can_preview": PAGE_OR_DRAWING.match(message.content) is not None,
        "can_continue": can_continue(stored) and bool(message.content or message.reasoning) and not is_imported,
    }


@lru_cache(maxsize=256)
def rendered(text: str) -> Markup:
    from webapp.web.kit.markdown import render_markdown  # takes 0.1 s, which a start does not need

    return Markup(render_markdown(text, copy_label="")) if text.strip() else Markup()


SHAPED = re.compile(
    r"^ {0,3}(?:```|~~~|[-*+] |\d{1,3}[.)] |> |\|.*\|)|`[^`\n]+`|\*\*\S|~~\S|\$\S|\\[(\[]|https?://|\]\(", re.MULTILINE
)


def as_written(text: str) -> Markup:
    """A user message as HTML if it contains code, lists, formulas or similar; empty for plain text, which is shown
    unchanged, with every space."""
    return rendered(text) if SHAPED.search(text) else Markup()


def _versions(stored: StoredMessage) -> Values | None:
    if stored.version_count < 2:
        return None
    ids = {"previous_id": stored.previous_version_id or "", "next_id": stored.next_version_id or ""}
    return {"number": stored.version, "count": stored.version_count, **ids}


def written_text(end: Finished, t: Translator) -> str:
    """For text generated outside a chat: how much, how fast, and how many tokens were prefilled."""
    read = t("notebook.read", count=end.stats.get("prefilled_tokens", 0))
    return " · ".join([*_rate(end.usage.completion, end.stats, t), read])


def _rate(tokens: int, stats: Mapping[str, Any], t: Translator) -> list[str]:
    speed = stats.get("tokens_per_s")
    return [t("chat.stats.tokens", count=tokens), *([t("chat.stats.speed", rate=_rounded(speed))] if speed else [])]


def _figures(stats: dict[str, Any], t: Translator) -> list[str]:
    """Tokens, tokens/s, seconds, and how much of the chat was prefilled again."""
    tokens = stats.get("decoded_tokens")
    if not tokens:
        return []
    found = _rate(tokens, stats, t)
    if stats.get("total_s"):
        found.append(t("chat.stats.seconds", seconds=_rounded(stats["total_s"])))
    if "read_again" in stats:
        found.append(t("chat.stats.read_again", count=stats["read_again"]))
    if replay := stats.get("replay"):
        found.append(replay_words(replay, t))
    return found


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _failure(page: ChatContext, stored: StoredMessage) -> Values | None:
    """What happened, what was saved, and the buttons for the next step: ``retry`` is a command, ``needs_model`` opens
    the menu of models. ``is_mild``: not an error (interrupted, or an empty answer)."""
    t, retry = page.t, f"regenerate:{stored.id}"
    if stored.status == "failed":
        error = error_from_dict(stored.error or {})
        message, hint = page.explain(error)
        hint = f"{t('chat.message.safe')} {hint}"
        return {"message": message, "hint": hint, "retry": retry, "needs_model": error.code in NEEDS_MODEL}
    is_empty = stored.status == "complete" and not stored.message.content.strip() and not stored.message.tool_calls
    if not is_empty and stored.status != "interrupted":
        return None
    key = "chat.message.empty" if is_empty else "chat.message.interrupted"
    return {"message": t(key), "hint": t(f"{key}_hint"), "retry": retry, "is_mild": True}


def replay_words(replay: dict[str, Any], t: Translator) -> str:
    """The result of a replay of the answer."""
    if "error" in replay:
        return t("chat.stats.replay_failed")
    place = replay["differs_at"]
    return (
        t("chat.stats.replay_equal", count=replay["tokens"])
        if place is None
        else t("chat.stats.replay_other", place=place)
    )


def call_card(state: CallState, t: Translator, locale: str) -> Values:
    """``chat/_calls.html``: one tool call. ``status``: "waiting" for approval, "running", "asking" for its result,
    "done". ``arguments``: readable JSON, ``said``: the result in words, ``reason``: why it failed."""
    said = state.by if state.status == "done" and not (state.is_error and state.by == "tool") else "failed"
    return {
        "id": state.call.id,
        "name": state.call.name,
        "arguments": as_pretty_json(state.call.arguments),
        "status": state.status,
        "said": t(f"chat.call.{said if state.status == 'done' else state.status}"),
        "result": as_pretty_json(state.result) if state.status == "done" else "",
        "is_error": state.is_error,
        "reason": str(say(state.reason, locale)) if state.by == "tool" else "",
        "can_run": state.status == "waiting" and state.tool is not None,
        "asks_once": state.tool is not None and state.tool.definition.approval is Approval.ONCE,
    }


# the tokens of an answer

CLASSES = (0.9, 0.5, 0.2, 0.05)
"""A token's colour gets stronger with each of these limits that its probability is below."""


def token_view(token: AnswerToken, place: int) -> Values:
    """``lines``: how many lines end with it; its text shows line ends as symbols."""
    text = token.text.replace("\n", "⏎")
    level = sum(token.probability < bound for bound in CLASSES)
    return {
        "place": place,
        "text": text or "·",
        "lines": token.text.count("\n"),
        "level": level,
        "chance": chance_text(token.probability),
    }


def chance_text(probability: float) -> str:
    if probability < 0.0005:
        return "< 0.1 %"
    return f"{100 * probability:.{0 if probability >= 0.0995 else 1}f} %"


def alternative_rows(own: AnswerToken | None, best: tuple[AnswerToken, ...], place: int, command: str) -> list[Values]:
    """``command``: the command of a click on one, before its position and token."""
    is_listed = own is None or any(token.token_id == own.token_id for token in best)
    rows = best if own is None or is_listed else (*best, own)
    return [
        {
            **token_view(token, place),
            "percent": round(100 * token.probability),
            "do": f"{command}:{place}:{token.token_id}",
            "is_own": own is not None and token.token_id == own.token_id,
            "is_end": token.token_id == END_OF_TEXT,
        }
        for token in rows
    ]


# files


def attached(page: ChatContext, chat_id: str) -> Values:
    """``chat/_attached.html``: the files for the next message; ``note``: how the model will receive them."""
    files = page.files.pending(chat_id)
    warning = _warning(page, files)
    return {
        "files": [_file_chip(file.as_attached, file.chat_id, page.t, can_change=True) for file in files],
        "note": warning or _note(files, page.t),
        "is_warning": bool(warning),
    }


def _file_chip(file: AttachedFile, chat_id: str, t: Translator, can_change: bool = False) -> Values:
    """``reading``: how the model receives it and what that costs; ``help``: the effect of a click on that, "" if it
    cannot be changed."""
    is_whole = file.mode is ReadMode.WHOLE
    help_text = ""
    if can_change and is_whole:
        help_text = t("chat.files.whole_help")
    elif can_change:
        key = "chat.files.searched_help_uncounted" if file.tokens is None else "chat.files.searched_help"
        help_text = t(key, count=file.tokens)
    return {
        "id": file.id,
        "name": file.name,
        "url": f"/chat/{chat_id}/files/{file.id}",
        "size": size_text(file.size_bytes),
        "reading": reading_words(file, t),
        "is_whole": is_whole,
        "help": help_text,
    }


def reading_words(file: AttachedFile, t: Translator) -> str:
    if file.mode is ReadMode.SEARCH:
        return t("chat.files.searched")
    return t("chat.files.whole_uncounted" if file.tokens is None else "chat.files.whole", count=file.tokens)


def _warning(page: ChatContext, files: list[Attachment]) -> str:
    """A model that was not trained for tool calls may not use the search."""
    model = page.status.model
    is_searched = any(file.mode is ReadMode.SEARCH for file in files)
    if is_searched and model and not is_known_to_call(model):
        return page.t("chat.files.may_not_search", model=model)
    return ""


def _note(files: list[Attachment], t: Translator) -> str:
    tokens = sum(file.tokens or 0 for file in files if file.mode is ReadMode.WHOLE)
    if tokens > WHOLE_TOKENS:
        return t("chat.files.much", count=tokens)
    return t("chat.files.search_note") if any(file.mode is ReadMode.SEARCH for file in files) else ""
