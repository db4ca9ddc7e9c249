"""A conversation as a file: Markdown with the shown branch, JSON with all branches, or ``.rwkvchat`` with all branches
and the states at their ends.

The last is a safetensors file (:mod:`webapp.engine.state`) of two kinds of tensors:

    document        U8, UTF-8 JSON: the chat as :func:`chat_document` has it, its preset, tools, model and the ``tips``
    tip.N.tokens    U32: the tokens that made the state of the N-th tip, from the beginning of the chat
    tip.N.<array>   the state after them, each array in the narrowest format that holds it; ``tip.N.logits`` too

With the same weights (compared by the digest of the model's file) the chat continues without prefill, even on another
machine or backend. Only this chat can find the states (``origin``), so a manipulated file cannot affect other chats.
With other weights, the transcript is opened and prefilled again.
"""

from __future__ import annotations

import json
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from msgspec import Struct, field, to_builtins
from msgspec.structs import replace

from webapp.chat.messages import Role, attached_files, fence
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import (
    DamagedFile,
    ModelConfig,
    RecurrentState,
    Snapshot,
    Stored,
    narrowest,
    packed,
    state_shapes,
    unpacked,
    widened,
)
from webapp.errors import PresetError, RoostError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.services.chat.imports import (
    DOCUMENT_FORMAT,
    DOCUMENT_VERSION,
    MAX_BYTES,
    ImportedChat,
    of_document,
    read_chats,
    with_new_ids,
)
from webapp.services.chat.turn_writer import prompt_of_path
from webapp.services.generation.request import PreparedPrompt, PromptModel
from webapp.services.presets.fields import BY_NAME, flat
from webapp.services.presets.files import preset_of
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore
from webapp.storage.records import Chat, ChatTools, StoredMessage, message_to_dict
from webapp.storage.tools import ToolStore
from webapp.weights.file_format import content_digest, stamp_of
from webapp.weights.inspection import require_model

ENDING = ".rwkvchat"
FORMAT = "rwkvchat-1"
MAX_TIPS = 16
"""Branch ends that are stored with their states, newest first."""
MAX_HEADER_BYTES = 1 << 20
PROMPT_FIELDS = ("sampling", "stop", "template", "think_mode", "system_prompt", "tool_dialect", "tools")
"""The preset fields that affect how a chat is processed and answered."""


class Opened(Struct, frozen=True):
    """``chat_ids``: the imported chats, in the file's order. ``states``: how many branches continue without prefill.
    ``made_by``: the model of a chat file if it is not the one in use; the chat must then be prefilled again."""

    chat_ids: tuple[str, ...]
    messages: int
    left_out: Counter[str] = field(default_factory=Counter)
    states: int = 0
    made_by: str = ""
    has_states: bool = False


class Tip(Struct, frozen=True):
    """The state after ``token_ids``, on the branch of message ``message_id``."""

    message_id: str
    token_ids: Sequence[int]
    snapshot: Snapshot


class ChatFiles:
    """Cheap to create. Every method either succeeds or raises a RoostError and changes nothing. ``may_choose``: a chat
    file may choose the model, if it is the manager's only user. ``may_add_presets``: otherwise the file's preset fields
    become the chat's own, as far as a chat has them."""

    def __init__(
        self,
        manager: ModelManager,
        store: ChatStore,
        presets: Presets,
        may_choose: bool = False,
        may_add_presets: bool = True,
    ) -> None:
        self._manager = manager
        self._may_choose = may_choose
        self._may_add_presets = may_add_presets
        self._store = store
        self._presets = presets
        self._tools = ToolStore(store.database)

    # export

    def save(self, chat_id: str) -> list[memoryview]:
        """The file in pieces. It contains the existing states, if the model in use wrote the last answer; a branch
        without a state is prefilled when it continues."""
        chat = self._store.get(chat_id)
        preset = self._presets.of_chat(chat)
        document = chat_document(self._store, chat_id)
        document["preset"] = {name: value for name, value in flat(preset).items() if not _is_local(name)}
        tools = self._tools.by_ids(chat.tools.tool_ids) if chat.tools.is_own else self._tools.list()
        tools = tools if chat.tools.is_own else [tool for tool in tools if tool.definition.name in preset.tools]
        document["tools"] = [tool.definition.function for tool in tools]
        tips, model = self._tips(chat, document["messages"])
        document["model"] = model
        document["tips"] = [{"message_id": tip.message_id, "tokens": len(tip.token_ids)} for tip in tips]
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        tensors = {"document": Stored("U8", (len(text),), memoryview(text))}
        for number, tip in enumerate(tips):
            ids = array("I", tip.token_ids)
            tensors[f"tip.{number}.tokens"] = Stored("U32", (len(ids),), memoryview(ids).cast("B"))
            for name, values in tip.snapshot.state.arrays.items():
                tensors[f"tip.{number}.{name}"] = narrowest(values)
            if tip.snapshot.logits is not None:
                tensors[f"tip.{number}.logits"] = narrowest(tip.snapshot.logits)
        return packed({"format": FORMAT}, tensors)

    def _tips(self, chat: Chat, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Tip], dict[str, Any]]:
        made_by = [row["model"] for row in rows if row["model"]]
        try:
            if self._may_choose and made_by:
                self._manager.choose(model=made_by[-1])
            model = PromptModel.chosen(self._manager)
            about = model_sheet(self._manager)
        except RoostError:  # no usable model: only the transcript
            return [], {}
        parents = {row["parent_id"] for row in rows}
        leaves = [row["id"] for row in rows if row["id"] not in parents and row["status"] != "streaming"]
        if self._manager.status().model not in made_by:
            return [], about
        tips: list[Tip] = []
        shown = [leaf for leaf in leaves if leaf == chat.head_id]
        for leaf in (*shown, *reversed([leaf for leaf in leaves if leaf != chat.head_id])):
            if len(tips) == MAX_TIPS:
                break
            prompt = self._prompt(chat, model, self._store.path_to(leaf))
            found = (
                None if prompt.prefix_tokens else self._manager.snapshot(prompt.token_ids, prompt.state, chat.origin)
            )
            if found is not None:
                tips.append(Tip(leaf, prompt.token_ids[: found[0]], found[1]))
        return tips, about

    def _prompt(self, chat: Chat, model: PromptModel, path: list[StoredMessage]) -> PreparedPrompt:
        """The prompt of the next answer on this path."""
        is_answered = path[-1].message.role is Role.ASSISTANT
        ends = path if is_answered else [*path, path[-1]]
        prompt, _ = prompt_of_path(
            self._manager, self._presets, self._store, chat, model, ends, is_answered, SamplingParams()
        )
        return prompt

    # import

    def open(self, name: str, data: bytes) -> Opened:
        """Opens a chat file, or any file that :func:`.imports.read_chats` can read. Raises ``chat_file_invalid`` or
        ``chat_import_invalid`` with the reason."""
        if name.lower().endswith(ENDING) or _is_tensor_file(data):
            return self._open_own(name, data)
        found = read_chats(name, data)
        with self._store.database.transaction():
            ids = [self._add(chat).id for chat in found]
        left_out: Counter[str] = sum((chat.left_out for chat in found), Counter())
        return Opened(tuple(ids), sum(len(chat.messages) for chat in found), left_out)

    def duplicate(self, chat_id: str, title: str) -> Chat:
        """Copies all branches and files; the copy continues from the same states."""
        chat = self._store.get(chat_id)
        imported = of_document(chat.title, chat_document(self._store, chat_id))
        messages, ids = with_new_ids(imported)
        now = time.time()
        head_id = ids[chat.head_id] if chat.head_id is not None else None
        made = replace(chat, id=uuid.uuid4().hex, title=title, created_at=now, updated_at=now, head_id=head_id)
        self._store.add_chat(made, messages, imported.files)
        return made

    def _open_own(self, name: str, data: bytes) -> Opened:
        document, tensors = read_chat_file(name, data)
        imported = of_document(name, document)
        if not imported.messages:
            raise RoostError("chat_file_invalid", name=name, reason=Text("reason.services.no_conversation"))
        tips = read_tips(name, document, tensors, {stored.id for stored in imported.messages})
        origin = uuid.uuid4().hex if tips else ""
        preset_id = self._preset_id(imported, document.get("preset"))
        chat = self._add(imported, preset_id, origin)
        made = Opened((chat.id,), len(imported.messages), imported.left_out, has_states=bool(tips))
        if not tips:
            return made
        model = document.get("model")
        about = model if isinstance(model, dict) else {}
        made_by = str(about.get("name", ""))[:200] or "?"
        try:
            if self._may_choose:
                self._choose(about.get("digest"))
            if about.get("digest") != model_sheet(self._manager)["digest"]:
                return replace(made, made_by=made_by)
            config = require_model(self._manager.model_info())
            snapshots = [snapshot_of(arrays, config) for _, arrays in tips]
            names = [
                self._manager.put_snapshot(ids, snapshot, self._presets.start_state(chat), origin)
                for (ids, _), snapshot in zip(tips, snapshots, strict=True)
            ]
        except (RoostError, DamagedFile):  # no model, a failed load, or an invalid state
            return replace(made, made_by=made_by)
        self._store.note_snapshots(chat.id, names)
        return replace(made, states=len(names))

    def _choose(self, digest: Any) -> None:
        """Chooses the library's model with this digest, if there is one."""
        for entry in self._manager.library.list():
            if entry.inspection is not None and content_digest(str(entry.path), stamp_of(entry.path)) == digest:
                self._manager.load(model=entry.name)
                return

    def _add(self, imported: ImportedChat, preset_id: str = "", origin: str = "") -> Chat:
        by_name = {tool.definition.name: tool.id for tool in self._tools.list()}
        tool_ids = tuple(by_name[name] for name in imported.tool_names if name in by_name)
        imported.left_out["tool"] += sum(name not in by_name for name in imported.tool_names)
        if imported.state and imported.state != "-" and not self._has_state(imported.state):
            imported.left_out["state_file"] += 1
            imported.state = ""
        tools = ChatTools(
            bool(imported.tool_names), imported.is_tools_on and bool(tool_ids), tool_ids, imported.dialect
        )
        messages, ids = with_new_ids(imported)
        chat = Chat(
            id=uuid.uuid4().hex,
            title=imported.title,
            system_prompt=imported.system_prompt,
            template=imported.template,
            think_mode=imported.think_mode,
            sampling=imported.sampling,
            created_at=imported.created_at,
            updated_at=imported.updated_at,
            head_id=ids[imported.head] if imported.head is not None else None,
            preset_id=preset_id,
            state=imported.state,
            tools=tools,
            origin=origin,
        )
        self._store.add_chat(chat, messages, imported.files)
        imported.left_out = +imported.left_out
        return chat

    def _has_state(self, name: str) -> bool:
        try:
            self._manager.library.find_state(name)
        except RoostError:
            return False
        return True

    def _preset_id(self, imported: ImportedChat, fields: Any) -> str:
        """A preset equivalent to the file's; created if there is none. "" if the file has none."""
        if not isinstance(fields, dict):
            return ""
        try:
            wanted = preset_of({name: value for name, value in fields.items() if not _is_local(str(name))})
        except (PresetError, TypeError, ValueError):
            imported.left_out["preset"] += 1
            return ""
        for known in self._presets.list():
            if all(getattr(known, name) == getattr(wanted, name) for name in PROMPT_FIELDS):
                return known.id
        if not self._may_add_presets:  # prompt, format, mode and sampling become the chat's own
            imported.left_out["preset"] += 1
            return ""
        return self._presets.add([wanted])[0].id


def _is_local(name: str) -> bool:
    """Whether a preset field is meaningful only on its own machine."""
    row = BY_NAME.get(name)
    return name in ("model", "strategy", "state") or (row is not None and row.place == "options")


def _is_tensor_file(data: bytes) -> bool:
    length = int.from_bytes(data[:8], "little")
    return len(data) > 9 and 2 <= length <= MAX_HEADER_BYTES and data[8:9] == b"{"


def model_sheet(manager: ModelManager) -> dict[str, Any]:
    """The model in use, as described in a chat file. Raises errors of :meth:`ModelManager.model_info`."""
    info = manager.model_info()
    about = {"name": manager.status().model, "digest": manager.model_digest()}
    return {**about, "architecture": require_model(info).architecture}


def read_chat_file(name: str, data: bytes) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The document and the other tensors. Raises ``chat_file_invalid`` if it is damaged or no chat."""
    if len(data) > MAX_BYTES:
        raise RoostError("too_large", found=len(data), limit=MAX_BYTES)
    try:
        about, tensors = unpacked(bytearray(data), MAX_HEADER_BYTES)
        if about != {"format": FORMAT}:
            raise DamagedFile("it is of another kind")
        encoded = tensors.pop("document", None)
        if encoded is None or encoded.dtype != "U8":
            raise DamagedFile("it has no document")
        document = json.loads(bytes(encoded.data).decode("utf-8"))
        if not isinstance(document, dict):
            raise DamagedFile("its document is no object")
    except (DamagedFile, ValueError, RecursionError) as exc:
        raise RoostError("chat_file_invalid", name=name[-200:], reason=str(exc)) from exc
    return document, tensors


def read_tips(
    name: str, document: Mapping[str, Any], tensors: Mapping[str, Stored], message_ids: set[str]
) -> list[tuple[tuple[int, ...], dict[str, Stored]]]:
    """Tokens and arrays of each state. Raises ``chat_file_invalid`` if tensors and document do not match."""
    rows = document.get("tips", [])
    if not isinstance(rows, list) or len(rows) > MAX_TIPS:
        raise RoostError("chat_file_invalid", name=name[-200:], reason="its tips make no sense")
    left, found = dict(tensors), []
    for number, row in enumerate(rows):
        prefix = f"tip.{number}."
        mine = {key.removeprefix(prefix): left.pop(key) for key in list(left) if key.startswith(prefix)}
        tokens = mine.pop("tokens", None)
        is_good = isinstance(row, dict) and row.get("message_id") in message_ids and tokens is not None
        if not is_good or tokens is None or tokens.dtype != "U32" or tokens.shape != (row.get("tokens"),):
            raise RoostError("chat_file_invalid", name=name[-200:], reason=f"tip {number} makes no sense")
        ids = array("I", bytes(tokens.data))
        found.append((tuple(ids), mine))
    if left:
        raise RoostError("chat_file_invalid", name=name[-200:], reason="it has tensors nobody knows")
    return found


def snapshot_of(arrays: Mapping[str, Stored], config: ModelConfig) -> Snapshot:
    """Raises DamagedFile unless these are the arrays of a state of this model: checks sizes first, then values."""
    expected = {**state_shapes(config), **({"logits": (config.vocab_size,)} if "logits" in arrays else {})}
    if {name: stored.shape for name, stored in arrays.items()} != expected:
        raise DamagedFile("its states are of another model")
    values = {name: widened(stored) for name, stored in arrays.items()}
    logits = values.pop("logits", None)
    return Snapshot(RecurrentState(config.architecture, values), logits)


# single states, for programs

STATE_FORMAT = "rwkvstate-1"


def pack_state(about: Mapping[str, str], token_ids: Sequence[int], length: int, snapshot: Snapshot) -> bytes:
    """A state file for :func:`unpack_state`: the state after the first ``length`` of its tokens."""
    ids = array("I", token_ids)
    tensors = {"tokens": Stored("U32", (len(ids),), memoryview(ids).cast("B"))}
    tensors |= {name: narrowest(values) for name, values in snapshot.state.arrays.items()}
    if snapshot.logits is not None:
        tensors["logits"] = narrowest(snapshot.logits)
    return b"".join(packed({**about, "format": STATE_FORMAT, "length": str(length)}, tensors))


class StateArrays(NamedTuple):
    arrays: Mapping[str, Stored]

    def snapshot(self, config: ModelConfig) -> Snapshot:
        """Raises ``invalid_parameter`` if the arrays belong to another model."""
        try:
            return snapshot_of(self.arrays, config)
        except DamagedFile as exc:
            raise RoostError("invalid_parameter", param="file", reason=str(exc)) from exc


def unpack_state(data: bytes) -> tuple[dict[str, str], tuple[int, ...], StateArrays, int]:
    """Metadata, tokens, arrays, and how many of the tokens the state has consumed. Raises ``invalid_parameter`` for a
    damaged or other file."""
    try:
        about, tensors = unpacked(bytearray(data), MAX_HEADER_BYTES)
        tokens = tensors.pop("tokens", None)
        if about.get("format") != STATE_FORMAT or tokens is None:
            raise DamagedFile("it is of another kind")
        if tokens.dtype != "U32" or len(tokens.shape) != 1 or not tokens.shape[0]:
            raise DamagedFile("it has no tokens")
        length_text = about.get("length", "")
        length = int(length_text) if length_text.isascii() and length_text.isdecimal() and len(length_text) < 12 else 0
        if not 0 < length <= tokens.shape[0]:
            raise DamagedFile("it has no length")
    except DamagedFile as exc:
        raise RoostError("invalid_parameter", param="file", reason=str(exc)) from exc
    return about, tuple(array("I", bytes(tokens.data))), StateArrays(tensors), length


def chat_markdown(store: ChatStore, chat_id: str) -> str:
    """The shown branch. Thinking becomes a quotation above its answer; files follow their message; calls and their
    results are included unchanged."""
    chat, _, files = store.whole(chat_id)
    texts = {file["id"]: str(file["text"]) for file in files}
    parts = [f"# {_one_line(chat.title) or 'Chat'}"]
    if chat.system_prompt:
        parts += ["## System", chat.system_prompt.strip()]
    for stored in store.branch(chat_id):
        is_result = stored.message.role is Role.TOOL
        name = f": {_one_line(stored.message.name)}" if is_result and stored.message.name else ""
        parts.append(f"## {stored.message.role.value.capitalize()}{name}")
        if stored.message.reasoning:
            thoughts = stored.message.reasoning.strip().split("\n")
            parts.append("\n".join(f"> {line}".rstrip() for line in thoughts))
        content = stored.message.content.strip()
        parts.append(_fenced(content) if is_result else content)
        parts += [f"### {call.name}\n\n{_fenced(call.arguments, 'json')}" for call in stored.message.tool_calls]
        parts += [f"### {file.name}\n\n{_fenced(texts.get(file.id, ''))}" for file in attached_files(stored.message)]
    return "\n\n".join(part for part in parts if part) + "\n"


def chat_document(store: ChatStore, chat_id: str) -> dict[str, Any]:
    """Every branch and version, for JSON: parents before children, so that an import needs one pass. Messages contain
    the ids of their files in their metadata."""
    chat, messages, files = store.whole(chat_id)
    return {
        "format": DOCUMENT_FORMAT,
        "format_version": DOCUMENT_VERSION,
        "chat": {
            **{name: value for name, value in to_builtins(chat).items() if name != "person_id"},
            "think_mode": chat.think_mode.value if chat.think_mode else "",
        },
        "messages": [_message_document(stored) for stored in messages],
        "attachments": list(files),
    }


def _message_document(stored: StoredMessage) -> dict[str, Any]:
    when = datetime.fromtimestamp(stored.created_at, timezone.utc).isoformat(timespec="seconds")
    return {
        "id": stored.id,
        "parent_id": stored.parent_id,
        "created_at": stored.created_at,
        "created": when,
        "status": stored.status,
        "finish_reason": stored.finish_reason,
        "model": stored.model,
        "stats": stored.stats,
        "error": stored.error,
        **message_to_dict(stored.message),
    }


def _fenced(text: str, language: str = "") -> str:
    ticks = fence(text)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
