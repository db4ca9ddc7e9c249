"""What a program asks for, in no dialect, and what the engine is asked for it: token ids, stops and sampling for one
model. What the answer has to look like is read in :mod:`.structure`.

The APIs translate into these requests; :mod:`.completions` carries them out.
"""

from __future__ import annotations

import hashlib
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
from webapp.chat.messages import Message, ThinkMode
from webapp.chat.prompts import PromptPiece, RenderedPrompt
from webapp.chat.tool_dialects import OfferedTools, ToolDialect, all_dialects, default_dialect
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError
from webapp.manager.manager import ModelManager
from webapp.tokenizer import Tokenizer
from webapp.weights.inspection import Inspection, chat_template, model_name, require_model


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation. ``think_mode`` None and ``template`` "" are the active preset's, or the model's own.

    ``continue_last``: the last message, an assistant's, is the beginning of the answer; only what follows it comes
    back. ``names`` replaces the template's words for user, assistant and system where they are not "".
    """

    messages: tuple[Message, ...]
    think_mode: ThinkMode | None = None
    continue_last: bool = False
    template: str = ""
    names: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True)
class TextPrompt:
    """Text, or token ids, as they are: no template, no cleaning."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    suffix: str = ""
    """What follows the answer: a model that can fills the gap between the two texts."""


Prompt = ChatPrompt | TextPrompt


@dataclass(frozen=True)
class Structure:
    """What the answer has to look like, as OpenAI's request says it. ``tools`` are OpenAI tool objects."""

    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    response_format: Mapping[str, Any] | None = None
    is_parallel: bool = True
    """Several calls in one answer may be made."""
    is_constrained: bool = True
    """A grammar holds the answer: its calls are of known tools and fit their schemas."""
    thinking_tokens: int | None = None
    """How long a thought may be; it is closed there."""
    dialect: str = ""
    """Of :func:`webapp.chat.tool_dialects.all_dialects`; "" is the preset's, or what fits the model."""


@dataclass(frozen=True)
class AnswerRequest:
    """``choices`` answers to each of ``prompts``. ``sampling`` holds only what was asked for: names of SamplingParams.

    ``stop`` None is the preset's; a stop ends the content, thinking does not count. ``state`` as in
    :meth:`ModelManager.submit`; ``prefix_id`` names one that has a prefix in it, in its place. ``client`` is who asks,
    for fairness. ``streams_calls``: the caller can use pieces of a call, and with a call the limit of tokens has cut
    off. ``is_kept``: it is gone on from later. ``before``: tokens that the prompt follows, from ``state`` on, as they
    are; ``origin`` as in ``GenerationRequest``.
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


@dataclass(frozen=True)
class PromptModel:
    """The model a prompt is made for: its vocabulary and its template."""

    info: Inspection
    tokenizer: Tokenizer

    @classmethod
    def chosen(cls, manager: ModelManager) -> PromptModel:
        info = manager.model_info()  # first: submit refuses what was made for a model chosen before
        return cls(info, manager.tokenizer())

    def check_answers(self) -> None:
        """``model_writes_music`` for a model that knows notes and no language."""
        if self.info.kind == "music":
            raise RoostError("model_writes_music", name=os.path.basename(self.info.path))


@dataclass(frozen=True)
class EncodedPrompt:
    """``boundaries`` are prefix lengths at which a message ends, ascending. ``beginning`` are the last ids, those of
    the answer that is being continued; empty for a new one."""

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    beginning: tuple[int, ...] = ()


@dataclass(frozen=True)
class PreparedPrompt:
    """All the engine needs for an answer. ``params`` end at the template's stops too; ``constraint`` is as in
    ``GenerationRequest``, ``state`` as in :meth:`ModelManager.submit`. ``prefix_tokens`` of the prompt are in the state
    already and not in ``encoded``."""

    model: PromptModel
    rendered: RenderedPrompt
    encoded: EncodedPrompt
    params: SamplingParams
    constraint: dict[str, Any] | None = None
    state: str | None = None
    prefix_tokens: int = 0

    @property
    def token_ids(self) -> tuple[int, ...]:
        """What the engine is given."""
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
    """Text, or token ids, as they are: no format, no cleaning, no tags, and only the stops of the model's family."""
    stops = with_family_stops(RAW, model_name(info)).stop_strings if info is not None else ()
    return RenderedPrompt((PromptPiece(text, token_ids),), stops, is_raw=True)


def template_of(info: Inspection, *names: str, has_tools: bool = False) -> PromptTemplate:
    """The first of these formats that exists for the model, else the one that fits it best, which may be another where
    tools are offered. It stops where models of its family do."""
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
    """The format of a prompt that offers these tools, and the tools in the dialect that goes with it.

    ``names`` are formats as for :func:`template_of`, ``dialect`` the one asked for, "" for none. ``has_calls``: calls
    stand in the history.
    """
    follows = dialect in ("", FUNCTION_CALLING.dialect)
    chosen = template_of(info, *names, has_tools=follows and (bool(offered.definitions) or has_calls))
    return chosen, replace(offered, dialect=dialect_of(dialect, info, chosen))


def dialect_of(name: str, info: Inspection, template: PromptTemplate | None = None) -> ToolDialect:
    """By its name; for "" or an unknown name the one that goes with the model and with the format (None: the format
    that fits the model)."""
    known = {dialect.name: dialect for dialect in all_dialects()}
    if name in known:
        return known[name]
    return default_dialect(model_name(info), (template or template_of(info, has_tools=True)).dialect)


MOST_KEPT_TOKENS = 1 << 20


class EncodedTexts:
    """The ids of the texts encoded last, up to :data:`MOST_KEPT_TOKENS` (4 MB): each turn of a chat encodes all of its
    questions, 3 ms a thousand tokens. Safe to use from any thread."""

    def __init__(self, most_tokens: int = MOST_KEPT_TOKENS) -> None:
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
    """Piece by piece: no token spans two, so a conversation that grows keeps the ids it had."""
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
    """The usual spelling of each stop, so that the engine ends there by itself.

    A model may spell one otherwise (World has "。\\n" as one token); the text router sees those.
    """
    spelled = (tuple(tokenizer.encode(stop)) for stop in stop_strings)
    return tuple(sequence for sequence in spelled if sequence)
