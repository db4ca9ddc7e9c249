"""Imports of chats from other programs: detects the format by content and returns conversations to store.

    ChatGPT       ``conversations.json``, alone or in its .zip (OpenAI's data export): a tree of nodes by id
    Open WebUI    its export: a list of chats with ``history.messages`` by id and ``currentId``
    SillyTavern   .jsonl: a first line about the chat, then a message a line, with ``swipes``
    RWKV-Runner   .txt or .md: "User: …" and "Assistant: …", or "**User**" with a line of the time
    Roost         its JSON, and the document inside a ``.rwkvchat`` (:mod:`.chat_file`)

File content is untrusted: sizes and counts are limited before use, ids are replaced, and content that a chat cannot
store (images, audio, tool steps) is counted by kind and mentioned at its position.
"""

from __future__ import annotations

import html
import io
import json
import lzma
import math
import re
import struct
import time
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from msgspec import Struct, field
from msgspec.structs import replace

from webapp.chat.messages import ATTACHMENTS, Message, ReadMode, Role, ThinkMode, ToolCall, title_of
from webapp.chat.prompts import SEPARATOR_INCLUDED
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RequestError, RoostError
from webapp.i18n import Text
from webapp.services.attachments import decode_text
from webapp.services.chat.tool_loop import CALLS
from webapp.services.chat.turns import REWRITTEN
from webapp.storage.records import StoredMessage

LEFT_OUT = (
    "attachment", "audio", "comment", "file", "image", "preset", "state_file", "tool", "tool_step", "video",
)  # fmt: skip
"""Kinds of content that is left out."""
DOCUMENT_FORMAT, DOCUMENT_VERSION = "roost-chat", 1
MAX_BYTES = 256 << 20
"""Per document, uncompressed."""
MAX_CHATS, MAX_MESSAGES = 20_000, 500_000
MAX_CHARS = 4 << 20
"""Per message."""
TITLE_CHARS, ID_CHARS, SHORT_CHARS = 200, 200, 500
MAX_TOKEN_ID = (1 << 24) - 1
LATEST = 253_402_300_799.0
"""Unix time of the end of the year 9999, the last year that a calendar can show."""

Json = Mapping[str, Any]


class ImportedChat(Struct):
    """``messages``: parents first, with the file's own ids. ``head``: the last message of the branch to show.
    ``left_out``: number of items that the chat cannot store, by kind (``chat.import.left_out.<kind>``)."""

    title: str = ""
    messages: list[StoredMessage] = field(default_factory=list)
    head: str | None = None
    system_prompt: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    sampling: dict[str, Any] = field(default_factory=dict)
    think_mode: ThinkMode | None = None
    template: str = ""
    tool_names: tuple[str, ...] = ()
    dialect: str = ""
    is_tools_on: bool = False
    state: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_chats(name: str, data: bytes) -> list[ImportedChat]:
    """The chats in the file ``name``. Raises ``chat_import_invalid`` if it has none of these formats."""
    if len(data) > MAX_BYTES:
        raise RoostError("too_large", found=len(data), limit=MAX_BYTES)
    if data.startswith(b"PK\x03\x04"):
        chats = [chat for member in _members(name, data) for chat in _of_text(name, member)]
    else:
        chats = _of_text(name, data)
    chats = [chat for chat in chats if chat.messages]
    if not chats:
        _refuse(name, Text("reason.services.no_conversation"))
    if len(chats) > MAX_CHATS or sum(len(chat.messages) for chat in chats) > MAX_MESSAGES:
        _refuse(name, Text("reason.services.too_many_messages", limit=MAX_MESSAGES))
    return chats


def _refuse(name: str, reason: Text | str) -> NoReturn:
    raise RoostError("chat_import_invalid", name=name[-SHORT_CHARS:], reason=reason)


BAD_ZIP = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error)
MEMBER = re.compile(r"(?:.*/)?conversations(?:[-_]\d{1,6})?\.json")


def _members(name: str, data: bytes) -> Iterable[bytes]:
    """The conversations inside a data export; never more than :data:`MAX_BYTES`, whatever the archive claims."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [info for info in archive.infolist() if MEMBER.fullmatch(info.filename)]
            if not members:
                _refuse(name, Text("reason.services.no_conversations_in_zip"))
            left = MAX_BYTES
            for info in members:
                with archive.open(info) as file:
                    content = file.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise RoostError("too_large", found=f"> {MAX_BYTES}", limit=MAX_BYTES)
                yield content
    except RoostError:
        raise
    except (*BAD_ZIP, RuntimeError, NotImplementedError, OSError, EOFError, ValueError) as exc:
        reason = Text("reason.services.zip_is_damaged")
        raise RoostError("chat_import_invalid", name=name[-SHORT_CHARS:], reason=reason) from exc


def _of_text(name: str, data: bytes) -> list[ImportedChat]:
    try:
        text = decode_text(name, data).text
    except RoostError as exc:  # its way out is for attachments
        raise RoostError("chat_import_invalid", name=name[-SHORT_CHARS:], reason=exc.params["reason"]) from exc
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return [_of_runner(name, text)]
    try:
        document = json.loads(text)
    except RecursionError:
        _refuse(name, Text("reason.web.is_nested_too_deeply"))
    except ValueError as exc:
        if "\n" in text.strip() and start == "{":
            return [_of_sillytavern(name, text)]
        raise RoostError("chat_import_invalid", name=name, reason=Text("reason.common.is_not_valid_json")) from exc
    if isinstance(document, dict) and document.get("format") == DOCUMENT_FORMAT:
        return [of_document(name, document)]
    if isinstance(document, dict) and isinstance(document.get("chats"), list):
        document = document["chats"]
    entries = document if isinstance(document, list) else [document]
    chats = []
    for entry in entries:
        if not isinstance(entry, dict):
            _refuse(name, Text("reason.services.no_known_chat_format"))
        if isinstance(entry.get("mapping"), dict):
            chats.append(_of_chatgpt(name, entry))
        elif isinstance(entry.get("chat"), dict):
            chats.append(_of_open_webui(name, entry, entry["chat"]))
        elif isinstance(entry.get("history"), dict):
            chats.append(_of_open_webui(name, entry, entry))
        elif entry.get("format") == DOCUMENT_FORMAT:
            chats.append(of_document(name, entry))
        elif "user_name" in entry or "mes" in entry:
            return [_of_sillytavern(name, text)]
        else:
            _refuse(name, Text("reason.services.no_known_chat_format"))
    return chats


# conversion of values


def _text(value: Any, most: int = MAX_CHARS) -> str:
    return value[:most] if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 31 else None


def _time(value: Any) -> float:
    """Unix seconds from a number (also milliseconds or nanoseconds) or a date text; 0 for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip().replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError, OSError):
            return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    seconds = float(value) if abs(value) < 1e30 else 0.0
    while seconds > LATEST:
        seconds /= 1000
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _left(chat: ImportedChat, kind: str, name: str = "") -> str:
    """Counts an item that is left out; returns the line that replaces it."""
    chat.left_out[kind] += 1
    label = " ".join(name.split())[:SHORT_CHARS]
    return f"[{kind.replace('_', ' ')} left out{': ' + label if label else ''}]"


def _add(
    chat: ImportedChat, key: str, parent: str | None, message: Message, created_at: float = 0.0, model: str = ""
) -> None:
    reason = "stop" if message.role is Role.ASSISTANT else ""
    stored = StoredMessage(
        key, "", parent, message, finish_reason=reason, created_at=created_at, model=_text(model, SHORT_CHARS)
    )
    chat.messages.append(stored)
    chat.head = key


def _finish(chat: ImportedChat, head: str | None) -> ImportedChat:
    """Adds a title, and the branch that was shown in the other program."""
    if head is not None and any(stored.id == head for stored in chat.messages):
        chat.head = head
    times = [stored.created_at for stored in chat.messages if stored.created_at]
    chat.created_at = chat.created_at or min(times, default=time.time())
    chat.updated_at = chat.updated_at or max(times, default=chat.created_at)
    if not chat.title.strip():
        said = next((stored.message.content for stored in chat.messages if stored.message.role is Role.USER), "")
        chat.title = title_of(said)
    return chat


def _walk(
    nodes: Json, parent_of: Callable[[Json], Any], visit: Callable[[str, Json, str | None], str | None]
) -> dict[str, str | None]:
    """Each node after its parent; ``visit`` gives the id children hang below, which is the parent's where the node is
    passed over. A parent that is not there, or is the node's own descendant, counts as none. Returns what each node's
    children hang below."""
    done: dict[str, str | None] = {}
    for key in nodes:
        trail: list[str] = []
        at: Any = key
        while isinstance(at, str) and at in nodes and at not in done and at not in trail[-1:]:
            trail.append(at)
            at = parent_of(_dict(nodes[at]))
            if len(trail) > len(nodes):  # a ring
                break
        if len(trail) > len(nodes):
            trail = list(dict.fromkeys(trail))
            at = None
        below = done.get(at) if isinstance(at, str) else None
        for node in reversed(trail):
            if node not in done:
                done[node] = visit(node, _dict(nodes[node]), below)
            below = done[node]
    return done


# ChatGPT

CHATGPT_PARTS = {
    "image_asset_pointer": "image",
    "audio_asset_pointer": "audio",
    "video_container_asset_pointer": "video",
    "real_time_user_audio_video_asset_pointer": "audio",
}


def _of_chatgpt(name: str, entry: Json) -> ImportedChat:
    chat = ImportedChat(_text(entry.get("title"), TITLE_CHARS))
    chat.created_at, chat.updated_at = _time(entry.get("create_time")), _time(entry.get("update_time"))
    thoughts: dict[str | None, str] = {}

    def visit(key: str, node: Json, parent: str | None) -> str | None:
        body = _dict(node.get("message"))
        role, content = _dict(body.get("author")).get("role"), _dict(body.get("content"))
        metadata, kind = _dict(body.get("metadata")), content.get("content_type")
        if not body or metadata.get("is_visually_hidden_from_conversation") is True:
            return parent
        if kind in ("thoughts", "reasoning_recap"):
            found = [_text(_dict(thought).get("content")) for thought in _list(content.get("thoughts"))]
            thoughts[parent] = "\n\n".join(filter(None, (thoughts.get(parent, ""), *found)))
            return parent
        if role == "tool" or (role == "assistant" and body.get("recipient", "all") != "all"):
            _left(chat, "tool_step")
            return parent
        lines = [_chatgpt_part(chat, part) for part in _list(content.get("parts"))]
        lines += [_text(content.get("text"))] if isinstance(content.get("text"), str) else []
        for file in _list(metadata.get("attachments")):
            if not str(_dict(file).get("mime_type", "")).startswith("image/"):  # a picture is one of the parts
                lines.append(_left(chat, "file", _text(_dict(file).get("name"), SHORT_CHARS)))
        text = "\n\n".join(line for line in lines if line.strip())
        if role == "system":
            chat.system_prompt = chat.system_prompt or text
            return parent
        if role not in ("user", "assistant") or not text.strip():
            return parent
        reasoning = thoughts.pop(parent, "") if role == "assistant" else ""
        message = Message(Role(role), text[:MAX_CHARS], reasoning=reasoning[:MAX_CHARS])
        _add(chat, key, parent, message, _time(body.get("create_time")), _text(metadata.get("model_slug")))
        return key

    below = _walk(entry["mapping"], lambda node: node.get("parent"), visit)
    current = entry.get("current_node")
    return _finish(chat, below.get(current) if isinstance(current, str) else None)


def _chatgpt_part(chat: ImportedChat, part: Any) -> str:
    if isinstance(part, str):
        return part[:MAX_CHARS]
    kind = _dict(part).get("content_type")
    if kind == "audio_transcription":
        return _text(part.get("text"))
    return _left(chat, CHATGPT_PARTS.get(str(kind), "attachment"), _text(_dict(part).get("asset_pointer"), SHORT_CHARS))


# Open WebUI

DETAILS = re.compile(r'<details type="(\w+)"[^>]*>\s*(?:<summary>.*?</summary>)?(.*?)</details>\s*', re.DOTALL)


def _of_open_webui(name: str, entry: Json, body: Json) -> ImportedChat:
    chat = ImportedChat(_text(entry.get("title") or body.get("title"), TITLE_CHARS))
    chat.created_at, chat.updated_at = (
        _time(entry.get("created_at") or body.get("timestamp")), _time(entry.get("updated_at")),
    )  # fmt: skip
    chat.system_prompt = _text(body.get("system") or _dict(body.get("params")).get("system"))
    history = _dict(body.get("history"))
    nodes, head = _dict(history.get("messages")), history.get("currentId")
    if not nodes:  # an old export: the shown branch alone
        rows = [_dict(row) for row in _list(body.get("messages"))]
        nodes = {str(n): {**row, "parentId": str(n - 1) if n else None} for n, row in enumerate(rows)}
        head = str(len(rows) - 1)

    def visit(key: str, node: Json, parent: str | None) -> str | None:
        role = node.get("role")
        if role == "system":
            chat.system_prompt = chat.system_prompt or _text(node.get("content"))
        if role not in ("user", "assistant"):
            return parent
        content, reasoning = _without_details(chat, _open_webui_text(chat, node.get("content")))
        files = [_left_file(chat, _dict(file)) for file in _list(node.get("files"))]
        text = "\n\n".join(part for part in (content.strip(), *files) if part)
        if not text and not reasoning:
            return parent
        message = Message(Role(role), text[:MAX_CHARS], reasoning=reasoning[:MAX_CHARS])
        _add(chat, key, parent, message, _time(node.get("timestamp")), _text(node.get("model"), SHORT_CHARS))
        return key

    below = _walk(nodes, lambda node: node.get("parentId"), visit)
    return _finish(chat, below.get(head) if isinstance(head, str) else None)


def _open_webui_text(chat: ImportedChat, content: Any) -> str:
    if not isinstance(content, list):
        return _text(content)
    parts = []
    for part in map(_dict, content):
        parts.append(_text(part.get("text")) if part.get("type") == "text" else _left(chat, "image"))
    return "\n\n".join(filter(None, parts))


def _left_file(chat: ImportedChat, file: Json) -> str:
    inner = _dict(file.get("file"))
    name = _text(file.get("name") or inner.get("filename"), SHORT_CHARS)
    return _left(chat, "image" if file.get("type") == "image" else "file", name)


def _without_details(chat: ImportedChat, text: str) -> tuple[str, str]:
    """Content and thinking: Open WebUI folds thinking and calls into HTML."""
    thoughts: list[str] = []

    def take(found: re.Match[str]) -> str:
        if found[1] == "reasoning":
            lines = html.unescape(found[2]).strip().split("\n")
            thoughts.append("\n".join(re.sub(r"^> ?", "", line) for line in lines))
        else:
            _left(chat, "tool_step")
        return ""

    return DETAILS.sub(take, text), "\n\n".join(thoughts)


# SillyTavern


def _of_sillytavern(name: str, text: str) -> ImportedChat:
    chat, parent, head = ImportedChat(), None, None
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            _refuse(name, Text("reason.services.line_is_no_json", line=number + 1))
        if not isinstance(row, dict):
            _refuse(name, Text("reason.services.line_is_no_json", line=number + 1))
        if "mes" not in row:
            chat.title = chat.title or _text(row.get("character_name"), TITLE_CHARS)
            chat.created_at = chat.created_at or _time(row.get("create_date"))
            continue
        if row.get("is_system") is True:
            _left(chat, "comment")
            continue
        if len(chat.messages) > MAX_MESSAGES:
            _refuse(name, Text("reason.services.too_many_messages", limit=MAX_MESSAGES))
        extra, role = _dict(row.get("extra")), Role.USER if row.get("is_user") is True else Role.ASSISTANT
        marks = [_left(chat, "image", _text(extra["image"], SHORT_CHARS))] if extra.get("image") else []
        marks += [_left(chat, "file", _text(_dict(extra["file"]).get("name")))] if extra.get("file") else []
        swipes = [swipe for swipe in _list(row.get("swipes")) if isinstance(swipe, str)] or [_text(row.get("mes"))]
        chosen = row.get("swipe_id")
        chosen = chosen if isinstance(chosen, int) and 0 <= chosen < len(swipes) else 0
        for place, swipe in enumerate(swipes):
            said = "\n\n".join(filter(None, (swipe[:MAX_CHARS].strip(), *(marks if place == chosen else ()))))
            reasoning = _text(extra.get("reasoning")) if place == chosen else ""
            if said:
                _add(chat, f"{number}-{place}", parent, Message(role, said, reasoning), _time(row.get("send_date")))
                head = f"{number}-{place}" if place == chosen or head is None else head
        parent = head
    return _finish(chat, head)


# RWKV-Runner

SENDERS = {
    **dict.fromkeys(("user", "question", "q", "human", "bob", "m e", "用户", "用戶"), Role.USER),
    **dict.fromkeys(("assistant", "answer", "a", "bot", "alice", "a i", "ai", "助手"), Role.ASSISTANT),
    "system": Role.SYSTEM,
}
_WORDS = "|".join(re.escape(word) for word in sorted(SENDERS, key=len, reverse=True))
HEAD = re.compile(rf"^(?:\*\*({_WORDS})\*\*[ ]*\n[ ]*-[ ]*([^\n]{{0,80}})\n|({_WORDS})[ ]?[:：])", re.I | re.M)


def _of_runner(name: str, text: str) -> ImportedChat:
    chat, text = ImportedChat(), text.replace("\r\n", "\n")
    heads = list(HEAD.finditer(text))
    if not heads or text[: heads[0].start()].strip():
        _refuse(name, Text("reason.services.no_known_chat_format"))
    parent = None
    for number, head in enumerate(heads):
        end = heads[number + 1].start() if number + 1 < len(heads) else len(text)
        said, role = text[head.end() : end].strip()[:MAX_CHARS], SENDERS[(head[1] or head[3]).lower()]
        if role is Role.SYSTEM:
            chat.system_prompt = chat.system_prompt or said
        elif said:
            _add(chat, str(number), parent, Message(role, said), _time(head[2] or ""))
            parent = str(number)
    return _finish(chat, parent)


# Roost's own

NUMBERS = (
    "prompt_tokens", "cached_tokens", "prefilled_tokens", "decoded_tokens", "queued_s", "prefill_s", "decode_s",
    "tokens_per_s", "total_s", "read_again", "seed",
)  # fmt: skip
WORDS = ("strategy", "state", "preset", "adapter", "prompt_digest", "model_digest", "version")
STATUSES = ("complete", "stopped", "interrupted")
REASONS = ("", "stop", "length", "abort", "tool_calls")


def of_document(name: str, document: Json) -> ImportedChat:
    """An export of Roost: every branch, the very tokens of the answers, thinking, calls with their results, files."""
    if document.get("format_version") != DOCUMENT_VERSION:
        _refuse(name, Text("reason.services.newer_roost_wrote_it"))
    about, preset = _dict(document.get("chat")), _dict(document.get("preset"))
    chat = ImportedChat(_text(about.get("title"), TITLE_CHARS))
    chat.created_at, chat.updated_at = _time(about.get("created_at")), _time(about.get("updated_at"))
    chat.system_prompt = _text(about.get("system_prompt")) or _text(preset.get("system_prompt"))
    chat.template = _text(about.get("template"), 60) or _text(preset.get("template"), 60)
    mode = about.get("think_mode") or preset.get("think_mode")
    chat.think_mode = ThinkMode(mode) if mode in [one.value for one in ThinkMode] else None
    chat.sampling = {**_sampling(_dict(preset.get("sampling"))), **_sampling(_dict(about.get("sampling")))}
    chat.state = _text(about.get("state"), SHORT_CHARS) if isinstance(about.get("state"), str) else None
    tools = _dict(about.get("tools"))
    chat.is_tools_on, chat.dialect = tools.get("is_on") is True, _text(tools.get("dialect"), 60)
    chat.tool_names = tuple(_text(_dict(tool).get("name"), SHORT_CHARS) for tool in _list(document.get("tools")))
    files = {str(file["id"]): file for file in map(_dict, _list(document.get("attachments"))) if "id" in file}
    renamed = {key: uuid.uuid4().hex for key in files}
    chat.files = [_file(name, renamed[key], file) for key, file in files.items()]
    seen: set[str] = set()
    for row in map(_dict, _list(document.get("messages"))):
        key, parent = row.get("id"), row.get("parent_id")
        if (
            not isinstance(key, str)
            or key in seen
            or not (parent is None or (isinstance(parent, str) and parent in seen))
        ):
            _refuse(name, Text("reason.services.messages_are_no_tree"))
        if len(seen) > MAX_MESSAGES:
            _refuse(name, Text("reason.services.too_many_messages", limit=MAX_MESSAGES))
        seen.add(key)
        try:
            chat.messages.append(_stored(key, parent, row, renamed))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            reason = Text("reason.services.message_makes_no_sense", number=len(seen))
            raise RoostError("chat_import_invalid", name=name, reason=reason) from exc
        chat.head = key
    head = about.get("head_id")
    return _finish(chat, head if isinstance(head, str) else None)


def _sampling(values: Json) -> dict[str, Any]:
    """What can be used of it."""
    found = {}
    for key, value in values.items():
        try:
            SamplingParams.from_dict({key: value})
        except RequestError:
            continue
        is_of_a_request = key in ("stop_token_ids", "stop_token_sequences", "logprobs", "logit_bias")
        if not is_of_a_request and key not in ("count_weights", "rising_bias") and value is not None:
            found[key] = value
    return found


def _file(name: str, new_id: str, file: Json) -> dict[str, Any]:
    text = _text(file.get("text"))
    return {
        "id": new_id,
        "name": _text(file.get("name"), SHORT_CHARS) or "file",
        "mode": ReadMode.SEARCH.value if file.get("mode") == ReadMode.SEARCH.value else ReadMode.WHOLE.value,
        "size_bytes": len(text.encode("utf-8", "replace")),
        "characters": len(text),
        "tokens": _count(file.get("tokens")),
        "created_at": _time(file.get("created_at")) or time.time(),
        "text": text,
    }


def _stored(key: str, parent: str | None, row: Json, files: Mapping[str, str]) -> StoredMessage:
    """Raises what Python raises where a value is of another kind."""
    role, metadata = Role(row["role"]), _dict(row.get("metadata"))
    token_ids = tuple(row.get("token_ids") or ())
    if not all(type(token_id) is int and 0 <= token_id <= MAX_TOKEN_ID for token_id in token_ids):
        raise ValueError("token_ids")
    kept: dict[str, Any] = {
        name: metadata[name][:SHORT_CHARS]
        for name in ("tokenizer", SEPARATOR_INCLUDED)
        if isinstance(metadata.get(name), str)
    }
    if metadata.get(REWRITTEN) is True:
        kept[REWRITTEN] = True
    if attached := [_attached(file, files) for file in _list(metadata.get(ATTACHMENTS)) if file["id"] in files]:
        kept[ATTACHMENTS] = attached
    calls = tuple(
        ToolCall(_text(call["id"], ID_CHARS), _text(call["name"], SHORT_CHARS), _text(call["arguments"]))
        for call in row.get("tool_calls") or ()
    )
    results = {
        call_id: {"result": _text(found["result"]), "is_error": found["is_error"] is True, "by": _by(found.get("by"))}
        for call_id, found in _dict(metadata.get(CALLS)).items()
        if call_id in {call.id for call in calls}
    }
    if results:
        kept[CALLS] = results
    status = row.get("status") if row.get("status") in STATUSES else "interrupted"
    reason = row.get("finish_reason")
    message = Message(
        role=role,
        content=_text(row["content"]),
        reasoning=_text(row.get("reasoning")),
        tool_calls=calls,
        tool_call_id=_text(row.get("tool_call_id"), ID_CHARS),
        name=_text(row.get("name"), SHORT_CHARS),
        token_ids=token_ids,
        think_mode=ThinkMode(row.get("think_mode") or "none"),
        metadata=kept,
    )
    return StoredMessage(
        key,
        "",
        parent,
        message,
        status=str(status),
        finish_reason=str(reason) if reason in REASONS else "",
        stats=_stats(_dict(row.get("stats"))),
        model=_text(row.get("model"), SHORT_CHARS),
        created_at=_time(row.get("created_at")),
    )


def _by(value: Any) -> str:
    return value if value in ("tool", "person", "refused") else "tool"


def _attached(file: Json, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": files[file["id"]],
        "name": _text(file["name"], SHORT_CHARS) or "file",
        "mode": ReadMode(file["mode"]).value,
        "size_bytes": _count(file.get("size_bytes")) or 0,
        "tokens": _count(file.get("tokens")),
    }


def _stats(stats: Json) -> dict[str, Any]:
    """The figures under an answer, as far as they are figures."""
    found: dict[str, Any] = {}
    for name in NUMBERS:
        value = stats.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1 << 53:
            found[name] = value
    found |= {name: stats[name][:SHORT_CHARS] for name in WORDS if isinstance(stats.get(name), str)}
    if isinstance(stats.get("sampling"), dict):
        found["sampling"] = _sampling(stats["sampling"])
    return found


def with_new_ids(chat: ImportedChat) -> tuple[list[StoredMessage], dict[str, str]]:
    """The messages under ids of this database, and new id by old."""
    ids = {stored.id: uuid.uuid4().hex for stored in chat.messages}
    return [
        replace(stored, id=ids[stored.id], parent_id=ids[stored.parent_id] if stored.parent_id else None)
        for stored in chat.messages
    ], ids
