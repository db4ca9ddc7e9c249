"""Prefixes: beginnings of conversations that were prefilled once and are stored as state files: a system prompt, a list
of tools, a document.

The file contains the state after exactly these tokens, their digest, and the text. A prompt that uses it is rendered
completely, in the model's own format, as if the text were part of the conversation. If its first tokens equal those of
the file and the same model made the state, they are removed and the file's state is used instead. So the answer is the
same with and without the file. With another model, format or tools, the text is prefilled normally, and the engine's
snapshots avoid a second prefill.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from webapp.chat.messages import Message, Role, display_name, fenced
from webapp.chat.prompts import RenderedPrompt, render
from webapp.chat.tool_dialects import OfferedTools
from webapp.errors import FileMissing, ModelError, RequestError, RoostError, WeightsError
from webapp.i18n import Text
from webapp.manager.library import Stamp, stamp_of
from webapp.manager.manager import ModelManager
from webapp.manager.target import ZERO_STATE
from webapp.services.attachments import (
    DOCUMENT_BYTES,
    DOCUMENT_LIMIT,
    FILE_BYTES,
    FILE_LIMIT,
    decode_text,
    document_kind,
)
from webapp.services.generation.request import (
    EncodedPrompt,
    PreparedPrompt,
    PromptModel,
    Structure,
    dialect_of,
    encode_prompt,
    format_of,
)
from webapp.services.jobs import Job, Running
from webapp.services.states import MAKING, StateLibrary
from webapp.storage.presets import Preset
from webapp.storage.tools import StoredTool
from webapp.weights.inspection import require_model
from webapp.weights.state_sheet import (
    DOCUMENT,
    MOST_SOURCE_CHARS,
    PROMPT,
    TITLE_CHARS,
    TOOLS,
    PrefixSheet,
    prefix_metadata,
)

MOST_KEPT = 16


@dataclass(frozen=True)
class Source:
    """The content of a prefix. ``system``: the text of its system message; ``tools``: function objects offered in that
    message, in ``dialect`` ("": the model's own); ``template`` "" is the model's own."""

    kind: str
    title: str
    system: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    dialect: str = ""
    template: str = ""

    @property
    def spoken(self) -> str:
        """The message before the conversation's own messages; tools are in the conversation's own system message."""
        return "" if self.kind == TOOLS else self.system

    def to_dict(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "tools": [dict(tool) for tool in self.tools],
            "dialect": self.dialect,
            "template": self.template,
        }

    @classmethod
    def of(cls, sheet: PrefixSheet, told: Mapping[str, Any]) -> Source:
        """Parses the data of a file, which is untrusted. Raises ValueError for invalid data."""
        texts = {name: told.get(name, "") for name in ("system", "dialect", "template")}
        tools = told.get("tools", [])
        is_sane = isinstance(tools, list) and all(isinstance(tool, dict) and "name" in tool for tool in tools)
        if not is_sane or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("not a source of a prefix")
        return cls(sheet.kind, sheet.title, tools=tuple(tools), **texts)


def document(title: str, text: str) -> Source:
    """In a code fence, like an attached file in a prompt."""
    return Source(DOCUMENT, title, fenced(display_name(title), text))


@dataclass(frozen=True)
class Prefix:
    """A file in the library. ``name`` as in :meth:`ModelManager.apply_state`."""

    name: str
    sheet: PrefixSheet
    source: Source

    def rest(self, system: str, messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
        """System prompt and messages without those that the prefix already contains."""
        spoken = self.source.spoken
        if self.source.kind == TOOLS:
            is_bare = not system and not any(message.role is Role.SYSTEM for message in messages[:1])
            return (self.source.system if is_bare else system), messages
        if messages and messages[0].role is Role.SYSTEM and messages[0].content.strip() == spoken.strip():
            messages = messages[1:]
        return ("" if system.strip() == spoken.strip() else system), messages

    def offered(self, tools: OfferedTools, structure: Structure) -> OfferedTools:
        """A program that uses a prefix with tools and sends none gets the prefix's tools."""
        is_meant = self.source.tools and not structure.tools and structure.tool_choice in (None, "auto", "required")
        return replace(tools, definitions=self.source.tools) if is_meant else tools


_lock = threading.Lock()
_kept: OrderedDict[tuple[Path, Stamp], tuple[PrefixSheet, Source] | None] = OrderedDict()


def find_prefix(manager: ModelManager, state: str | None) -> Prefix | None:
    """The prefix in a state file; None if the state (None: the one in use) is not a prefix or cannot be read: the
    caller that uses the state reports its errors."""
    name = manager.status().state if state is None else state
    if not name or name == ZERO_STATE:
        return None
    try:
        path = manager.library.find_state(name)
        key = (path, stamp_of(path))
        with _lock:
            found = _kept.get(key)
            is_known = key in _kept
        if not is_known:
            told = manager.library.reader.prefix_source(path)
            found = (told[0], Source.of(*told)) if told else None
            with _lock:
                _kept[key] = found
                while len(_kept) > MOST_KEPT:
                    _kept.popitem(last=False)
    except (RoostError, ValueError):
        return None
    return Prefix(name, *found) if found else None


def starting_from(prompt: PreparedPrompt, prefix: Prefix | None, manager: ModelManager) -> PreparedPrompt:
    """The prompt without the tokens in the prefix's state. If they are not its first tokens, or another model made the
    state: the whole prompt, from the model's own initial state."""
    if prefix is None:
        return prompt
    ids, tokens = prompt.encoded.token_ids, prefix.sheet.tokens
    is_fitting = len(ids) - len(prompt.encoded.beginning) > tokens and digest_of(ids[:tokens]) == prefix.sheet.ids
    if not is_fitting or prefix.sheet.made_for != manager.model_identity():
        return replace(prompt, state="")
    boundaries = tuple(boundary - tokens for boundary in prompt.encoded.boundaries if boundary > tokens)
    rest = EncodedPrompt(ids[tokens:], boundaries, prompt.encoded.beginning)
    return replace(prompt, state=prefix.name, encoded=rest, prefix_tokens=tokens)


def digest_of(token_ids: Sequence[int]) -> str:
    return hashlib.blake2b(array("I", token_ids).tobytes(), digest_size=16).hexdigest()


def written(source: Source, model: PromptModel, template: str = "") -> RenderedPrompt:
    """Only the beginning, in the format named by ``source``, otherwise ``template``, or the model's own."""
    offered = OfferedTools(dialect_of(source.dialect, model.info), source.tools)
    chosen, offered = format_of(model.info, (source.template, template), offered, source.dialect)
    system = "" if source.spoken else source.system
    rendered = render(chosen, (), system, tools=offered, prefix=source.spoken)
    return replace(rendered, pieces=tuple(piece for piece in rendered.pieces if piece.is_boundary))


class Prefixes:
    """``app.extensions["prefixes"]``: creates prefixes. Every method either starts a job or raises a RoostError."""

    def __init__(self, states: StateLibrary) -> None:
        self.states = states
        self._manager = states.manager

    def is_stale(self, sheet: PrefixSheet) -> bool:
        """Whether another model than the chosen one made it; False if none is chosen."""
        try:
            return sheet.made_for != self._manager.model_identity()
        except RoostError:
            return False

    def bake(self, source: Source, new_name: str) -> Job:
        """Prefills it with the chosen model and stores the state under a new name. Raises ``file_name_taken``,
        ``prompt_empty``, ``document_too_long``, ``prompt_too_long``, ``state_mismatch`` (RWKV-4), model errors."""
        return self._bake(source, self.states.free_name(new_name), is_new=True)

    def bake_again(self, name: str) -> Job:
        """Replaces the file with one for the currently chosen model. ``state_not_found`` if it is not a prefix."""
        entry = self.states.entry(name)
        prefix = find_prefix(self._manager, entry.name)
        if prefix is None:
            raise FileMissing("state_not_found", path=name)
        return self._bake(prefix.source, entry.name, is_new=False)

    def _bake(self, source: Source, name: str, is_new: bool) -> Job:
        source = replace(source, title=source.title.strip()[:TITLE_CHARS] or name)
        if not (source.system.strip() or source.tools):
            raise RequestError("prompt_empty")
        model = PromptModel.chosen(self._manager)
        if require_model(model.info).major == 4:
            raise self.states.no_states_in_4(name)
        told = source.to_dict()
        length = len(source.system) + sum(len(str(tool)) for tool in source.tools)
        if length > MOST_SOURCE_CHARS:
            raise RequestError("document_too_long", found=length, limit=MOST_SOURCE_CHARS)
        ids = encode_prompt(written(source, model), model.tokenizer).token_ids
        if not ids:  # a format that cannot write a message alone
            raise WeightsError("state_mismatch", path=name, what=Text("reason.services.the_format"), **_NOT_ALONE)
        self._manager.check_prompt(ids)
        identity = self._manager.model_identity()
        status = self._manager.status()
        about = {"model": status.model, "tokens": len(ids)}

        def read(running: Running) -> dict[str, str]:
            state = self._manager.read_state(ids, state="")
            if running.wish:
                raise InterruptedError
            if self._manager.model_identity() != identity:
                raise ModelError("model_unloaded")
            strategy = self._manager.status().strategy
            sheet = PrefixSheet(
                source.kind, source.title, len(ids), digest_of(ids), status.model, strategy, identity, int(time.time())
            )
            note = f"{source.kind} of {len(ids)} tokens, read by {status.model}"
            self.states.write_running(name, state, note, prefix_metadata(sheet, told), is_new)
            if not is_new and self._manager.status().state == name:
                self._manager.apply_state(name)
            return {"name": name}

        return self.states.jobs.start(MAKING, name, read, about, unit="")


_NOT_ALONE = {
    "expected": Text("reason.services.format_writes_system"),
    "found": Text("reason.services.format_writes_none"),
}


HTML_NAME = re.compile(r"\.x?html?$", re.IGNORECASE)
HTML_BEGINS = re.compile(
    r"\s*(<\?xml[^>]{0,200}>\s*)?(<!--.{0,500}?-->\s*)?<(!doctype html|html)\b", re.IGNORECASE | re.DOTALL
)


def read_document(states: StateLibrary, name: str, data: bytes) -> str:
    """The text of an uploaded file: text or Markdown unchanged, others by the reader process. Raises
    ``attachment_too_large``, ``attachment_not_text``, ``attachment_empty``, ``document_unreadable`` or
    FileReadingFailed."""
    shown = display_name(name)
    if len(data) > DOCUMENT_BYTES:
        raise RoostError("attachment_too_large", name=shown, limit=DOCUMENT_LIMIT)
    if kind := document_kind(data):
        return states.read_text(data, kind, shown)
    if len(data) > FILE_BYTES:
        raise RoostError("attachment_too_large", name=shown, limit=FILE_LIMIT)
    text = decode_text(shown, data).text
    if not text.strip():
        raise RoostError("attachment_empty", name=shown)
    if HTML_NAME.search(name) or HTML_BEGINS.match(text):
        return states.read_text(text.encode("utf-8", "replace"), "html", shown)
    return text


def source_of_preset(preset: Preset, tools: Sequence[StoredTool], title: str) -> Source:
    """The preset's system prompt and its tools (from all existing ones), or only the prompt."""
    definitions = tuple(tool.definition.function for tool in tools if tool.definition.name in preset.tools)
    kind = TOOLS if definitions else PROMPT
    return Source(kind, title, preset.system_prompt, definitions, preset.tool_dialect, preset.template)
