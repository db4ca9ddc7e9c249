"""A program's request, independent of any API, and the resulting request to the engine: token ids, stops and sampling
for one model. :mod:`.structure` handles the required form of the answer.

The APIs translate to these requests; :mod:`.completions` runs them.

A prompt may start from a prefix: the beginning of a conversation (system prompt, list of tools or document) that was
prefilled once and is stored as a state file (:class:`webapp.services.states.Prefixes`). The file contains the state
after exactly these tokens, their digest, and the text. The prompt is rendered completely, in the model's own format, as
if the text were part of the conversation. If its first tokens equal those of the file and the same model made the
state, they are removed and the file's state is used instead. So the answer is the same with and without the file. With
another model, format or tools, the text is prefilled normally, and the engine's snapshots avoid a second prefill.
"""

from __future__ import annotations

import hashlib
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from webapp.chat.formats import (
    ALIASES,
    FUNCTION_CALLING,
    OWN,
    RAW,
    PromptTemplate,
    default_template,
    format_names,
    own_template,
    template,
    with_family_stops,
)
from webapp.chat.messages import Message, Role, ThinkMode
from webapp.chat.prompts import PromptPiece, RenderedPrompt, render
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools, ToolDialect, all_dialects, default_dialect
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError
from webapp.manager.library import Stamp, stamp_of
from webapp.manager.manager import ModelManager
from webapp.manager.target import ZERO_STATE
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection, chat_template, model_name, require_model
from webapp.weights.state_sheet import TOOLS, PrefixSheet


class ChatPrompt(Struct, frozen=True):
    """A conversation. ``think_mode`` None and ``template`` "" mean the active preset's, or the model's own.

    ``continue_last``: the last message, from the assistant, is the beginning of the answer; only the continuation is
    returned. ``names`` replaces the template's names for user, assistant and system unless they are "".
    """

    messages: tuple[Message, ...]
    think_mode: ThinkMode | None = None
    continue_last: bool = False
    template: str = ""
    names: tuple[str, str, str] = ("", "", "")


class TextPrompt(Struct, frozen=True):
    """Text or token ids, used unchanged: no template, no cleaning."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    suffix: str = ""
    """Text after the answer: a model that supports it fills the gap between the two texts."""


Prompt = ChatPrompt | TextPrompt


class Structure(Struct, frozen=True):
    """The required form of the answer, as in OpenAI's request. ``tools`` are OpenAI tool objects."""

    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    response_format: Mapping[str, Any] | None = None
    is_parallel: bool = True
    """An answer may contain several calls."""
    is_constrained: bool = True
    """A grammar constrains the answer: calls use known tools and match their schemas."""
    thinking_tokens: int | None = None
    """Maximum number of thinking tokens; thinking is closed there."""
    dialect: str = ""
    """From :func:`webapp.chat.tool_dialects.all_dialects`; "" is the preset's, or the model's own."""


class AnswerRequest(Struct, frozen=True):
    """``choices`` answers to each of ``prompts``. ``sampling`` has only the requested values: names of SamplingParams.

    ``stop`` None is the preset's; stops apply to the content, not to thinking. ``state`` as in
    :meth:`ModelManager.submit`; ``prefix_id`` names a state with a prefix instead. ``client`` identifies the caller,
    for fairness. ``streams_calls``: the caller can handle partial calls, also one that the token limit has cut off.
    ``is_kept``: the answer will be continued later. ``before``: tokens before the prompt, starting from ``state``, used
    unchanged; ``origin`` as in ``GenerationRequest``.
    """

    prompts: tuple[Prompt, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] | None = None
    choices: int = 1
    state: str | None = None
    prefix_id: str | None = None
    client: str = ""
    structure: Structure = Structure()
    streams_calls: bool = False
    is_kept: bool = False
    before: tuple[int, ...] = ()
    origin: str = ""


class PromptModel(Struct, frozen=True):
    """The model for which a prompt is made: its vocabulary and its template."""

    info: Inspection
    tokenizer: Tokenizer

    @classmethod
    def chosen(cls, manager: ModelManager) -> PromptModel:
        info = manager.model_info()  # first, because submit refuses prompts for a previous model
        return cls(info, manager.tokenizer())

    def check_answers(self) -> None:
        """Raises ``model_writes_music`` for a model that writes notes, not language."""
        if self.info.kind == "music":
            raise RoostError("model_writes_music", name=os.path.basename(self.info.path))


class EncodedPrompt(Struct, frozen=True):
    """``boundaries``: prefix lengths at which a message ends, ascending. ``beginning``: the last ids, if they belong to
    the answer that is continued; empty for a new answer."""

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    beginning: tuple[int, ...] = ()


class PreparedPrompt(Struct, frozen=True):
    """All that the engine needs for an answer. ``params`` include the template's stops. ``constraint`` as in
    ``GenerationRequest``, ``state`` as in :meth:`ModelManager.submit`. ``prefix_tokens`` of the prompt are already in
    the state and not in ``encoded``."""

    model: PromptModel
    rendered: RenderedPrompt
    encoded: EncodedPrompt
    params: SamplingParams
    constraint: dict[str, Any] | None = None
    state: str | None = None
    prefix_tokens: int = 0

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens for the engine."""
        return self.encoded.token_ids

    @property
    def prompt_tokens(self) -> int:
        return self.prefix_tokens + len(self.encoded.token_ids)


def prepare(
    model: PromptModel,
    rendered: RenderedPrompt,
    params: SamplingParams,
    constraint: dict[str, Any] | None = None,
    state: str | None = None,
) -> PreparedPrompt:
    stops = stop_sequences(rendered.stop_strings, model.tokenizer)
    params = replace(params, stop_token_sequences=(*params.stop_token_sequences, *stops))
    return PreparedPrompt(model, rendered, encode_prompt(rendered, model.tokenizer), params, constraint, state)


def raw_prompt(text: str, token_ids: tuple[int, ...] = (), info: Inspection | None = None) -> RenderedPrompt:
    """Text or token ids, unchanged: no format, no cleaning, no tags, and only the stops of the model's family."""
    stops = with_family_stops(RAW, model_name(info)).stop_strings if info is not None else ()
    return RenderedPrompt((PromptPiece(text, token_ids),), stops, is_raw=True)


def template_of(info: Inspection, *names: str, has_tools: bool = False) -> PromptTemplate:
    """The first of these formats that exists for the model, otherwise the best match, which may depend on whether tools
    are offered. It includes the stops of the model's family."""
    name, brought = model_name(info), chat_template(info)
    for wanted in names:
        if wanted == OWN and brought:
            return with_family_stops(own_template(brought), name)
        if wanted in (*format_names(), *ALIASES) and wanted != OWN:
            return with_family_stops(template(wanted), name)
    config = require_model(info)
    fitting = default_template(config.architecture, config.vocab_size, name, brought, has_tools)
    return with_family_stops(fitting, name)


def format_of(
    info: Inspection, names: Sequence[str], offered: OfferedTools, dialect: str = "", has_calls: bool = False
) -> tuple[PromptTemplate, OfferedTools]:
    """The format of a prompt with these tools, and the tools in the matching dialect, whatever theirs was.

    ``names``: formats as for :func:`template_of`. ``dialect``: the requested one, "" for none. ``has_calls``: the
    history contains calls.
    """
    follows = dialect in ("", FUNCTION_CALLING.dialect)
    chosen = template_of(info, *names, has_tools=follows and (bool(offered.definitions) or has_calls))
    return chosen, replace(offered, dialect=dialect_of(dialect, info, chosen))


def dialect_of(name: str, info: Inspection, template: PromptTemplate | None = None) -> ToolDialect:
    """By name; for "" or an unknown name, the dialect that matches the model and the format (None: the format that
    matches the model)."""
    known = {dialect.name: dialect for dialect in all_dialects()}
    if name in known:
        return known[name]
    return default_dialect(model_name(info), (template or template_of(info, has_tools=True)).dialect)


MAX_KEPT_TOKENS = 1 << 20


class EncodedTexts:
    """Caches the ids of the texts encoded last, up to :data:`MAX_KEPT_TOKENS` (4 MB), because each chat turn encodes
    all earlier questions again: 3 ms per thousand tokens. Thread-safe."""

    def __init__(self, most_tokens: int = MAX_KEPT_TOKENS) -> None:
        self._most_tokens = most_tokens
        self._tokens = 0
        self._kept: OrderedDict[tuple[Tokenizer, bytes], array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def token_ids(self, text: str, tokenizer: Tokenizer) -> Sequence[int]:
        key = (tokenizer, hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = array("I", tokenizer.encode(text))
        with self._lock:
            self._tokens += len(found) - len(self._kept.pop(key, ()))
            self._kept[key] = found
            while self._tokens > self._most_tokens:
                self._tokens -= len(self._kept.popitem(last=False)[1])
        return found


_encoded = EncodedTexts()


def encode_prompt(rendered: RenderedPrompt, tokenizer: Tokenizer) -> EncodedPrompt:
    """Encodes each piece separately: no token spans two pieces, so a growing conversation keeps its ids."""
    token_ids: list[int] = []
    boundaries: list[int] = []
    beginning: tuple[int, ...] = ()
    for piece in rendered.pieces:
        piece_ids = piece.token_ids or tuple(_encoded.token_ids(piece.text, tokenizer))
        token_ids += piece_ids
        if piece is rendered.continued:
            beginning = piece_ids
        if piece.is_boundary and piece_ids:
            boundaries.append(len(token_ids))
    return EncodedPrompt(tuple(token_ids), tuple(boundaries), beginning)


def stop_sequences(stop_strings: Iterable[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The usual encoding of each stop, so that the engine itself ends there.

    A model may encode a stop differently (World has "。\\n" as one token); the text router detects those.
    """
    spelled = (tuple(tokenizer.encode(stop)) for stop in stop_strings)
    return tuple(sequence for sequence in spelled if sequence)


NEW_STATE_ENDING = ".safetensors"
"""Of new state files."""
MAX_KEPT_PREFIXES = 16


class PrefixSource(Struct, frozen=True):
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
    def of(cls, sheet: PrefixSheet, fields: Mapping[str, Any]) -> PrefixSource:
        """Parses the data of a file, which is untrusted. Raises ValueError for invalid data."""
        texts = {name: fields.get(name, "") for name in ("system", "dialect", "template")}
        tools = fields.get("tools", [])
        is_sane = isinstance(tools, list) and all(isinstance(tool, dict) and "name" in tool for tool in tools)
        if not is_sane or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("not a source of a prefix")
        return cls(sheet.kind, sheet.title, tools=tuple(tools), **texts)


class Prefix(Struct, frozen=True):
    """A file in the library. ``name`` as in :meth:`ModelManager.apply_state`."""

    name: str
    sheet: PrefixSheet
    source: PrefixSource

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


_prefix_lock = threading.Lock()
_kept_prefixes: OrderedDict[tuple[Path, Stamp], tuple[PrefixSheet, PrefixSource] | None] = OrderedDict()


def find_prefix(manager: ModelManager, state: str | None) -> Prefix | None:
    """The prefix in a state file; None if the state (None: the one in use) is not a prefix or cannot be read: the
    caller that uses the state reports its errors."""
    name = manager.status().state if state is None else state
    if not name or name == ZERO_STATE:
        return None
    try:
        path = manager.library.find_state(name)
        key = (path, stamp_of(path))
        with _prefix_lock:
            found = _kept_prefixes.get(key)
            is_known = key in _kept_prefixes
        if not is_known:
            stored = manager.library.reader.prefix_source(path)
            found = (stored[0], PrefixSource.of(*stored)) if stored else None
            with _prefix_lock:
                _kept_prefixes[key] = found
                while len(_kept_prefixes) > MAX_KEPT_PREFIXES:
                    _kept_prefixes.popitem(last=False)
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
    """32 hex digits."""
    return hashlib.blake2b(array("I", token_ids).tobytes(), digest_size=16).hexdigest()


def rendered_prefix(source: PrefixSource, model: PromptModel, template: str = "") -> RenderedPrompt:
    """Only the beginning, in the format named by ``source``, otherwise ``template``, or the model's own."""
    offered = OfferedTools(G1X_JSON, source.tools)
    chosen, offered = format_of(model.info, (source.template, template), offered, source.dialect)
    system = "" if source.spoken else source.system
    rendered = render(chosen, (), system, tools=offered, prefix=source.spoken)
    return replace(rendered, pieces=tuple(piece for piece in rendered.pieces if piece.is_boundary))
