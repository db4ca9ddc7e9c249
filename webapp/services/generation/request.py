"""What a program asks for, in no dialect, and what the engine is asked for it: token ids, stops and sampling for one
model, and the form of the answer as the engine's constraint.

The APIs translate into these requests; :mod:`.completions` carries them out.
"""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
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
from webapp.chat.tool_grammars import ToolRules, held
from webapp.engine.sampling_params import SamplingParams
from webapp.errors import GrammarInvalid, RoostError, ToolInvalid
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.tokenizer import Tokenizer
from webapp.tools.definition import from_openai
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
    dialect: str = ""
    """Of :func:`webapp.chat.tool_dialects.all_dialects`; "" is the preset's, or what fits the model."""


@dataclass(frozen=True)
class AnswerRequest:
    """``choices`` answers to each of ``prompts``. ``sampling`` holds only what was asked for: names of SamplingParams.

    ``stop`` None is the preset's; a stop ends the content, thinking does not count. ``state`` as in
    :meth:`ModelManager.submit`. ``client`` is who asks, for fairness. ``streams_calls``: the caller can
    use pieces of a call, and with a call the limit of tokens has cut off. ``is_kept``: it is gone on from later.
    """

    prompts: tuple[Prompt, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] | None = None
    choices: int = 1
    state: str | None = None
    client: str = ""
    structure: Structure = Structure()
    streams_calls: bool = False
    is_kept: bool = False


@dataclass(frozen=True)
class PromptModel:
    """The model a prompt is made for: its vocabulary and its template."""

    info: Inspection
    tokenizer: Tokenizer

    @classmethod
    def chosen(cls, manager: ModelManager) -> PromptModel:
        info = manager.model_info()  # first: submit refuses what was made for a model chosen before
        return cls(info, manager.tokenizer())


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
    ``GenerationRequest``, ``state`` as in :meth:`ModelManager.submit`."""

    model: PromptModel
    rendered: RenderedPrompt
    encoded: EncodedPrompt
    params: SamplingParams
    constraint: dict[str, Any] | None = None
    state: str | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.encoded.token_ids


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


MAX_TOOLS = 128
MAX_TOOLS_CHARS = 512 * 1024
"""Of all tools together; each has its own limit beside it."""


def offered_by(structure: Structure, info: Inspection, dialect: str = "") -> OfferedTools:
    """In this dialect ("": the model's own), which writes the calls of the past even where nothing is offered."""
    choice = read_choice(structure.tool_choice)
    definitions = () if choice.names == frozenset() else _definitions(structure.tools)
    if choice.names:
        definitions = tuple(definition for definition in definitions if definition["name"] in choice.names)
        for name in sorted(choice.names - {definition["name"] for definition in definitions}):
            raise RoostError(
                "invalid_parameter",
                param="tool_choice",
                reason=Text("reason.api.is_not_one_of_the_tools", name=repr(name)),
            )
    if choice.is_required and not definitions:
        raise RoostError("invalid_parameter", param="tool_choice", reason=Text("reason.api.no_tools_to_choose_from"))
    has_form = not choice.is_required and _form(structure.response_format) is not None
    return OfferedTools(_dialect(structure, dialect, info), definitions, structure.is_constrained, has_form)


def constraint_of(structure: Structure, rendered: RenderedPrompt) -> dict[str, Any] | None:
    """None for free text. GrammarInvalid for a schema that cannot be used, before anything is queued."""
    consumed = rendered.continued.text if rendered.continued else ""
    form = _form(structure.response_format)
    if rendered.tools is not None:
        is_required = read_choice(structure.tool_choice).is_required
        if not structure.is_constrained:
            _check_nothing_demanded(is_required, form)
            return None
        most = None if structure.is_parallel else 1
        form = None if is_required else form
        found = call_constraint(rendered, is_required=is_required, max_calls=most, consumed=consumed, form=form)
        check_tools(found, rendered.tools)
        return found
    if form is not None:
        thinking = rendered.starts_in_reasoning
        tag_end = rendered.awaits_tag_end and not thinking
        form |= {"thinking": thinking, "tag_end": tag_end, "consumed": consumed}
    if form is not None:
        from webapp.structured.grammar import check

        check(form)
    return form


def dialect_of(name: str, info: Inspection, template: PromptTemplate | None = None) -> ToolDialect:
    """By its name; for "" or an unknown name the one that goes with the model and with the format (None: the format
    that fits the model)."""
    known = {dialect.name: dialect for dialect in all_dialects()}
    if name in known:
        return known[name]
    return default_dialect(model_name(info), (template or template_of(info, has_tools=True)).dialect)


def call_constraint(
    rendered: RenderedPrompt,
    *,
    is_required: bool = False,
    max_calls: int | None = None,
    consumed: str = "",
    form: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """For ``GenerationRequest.constraint``: free text until a call begins, then a call of an offered tool; with
    ``form``, a description as in :mod:`webapp.structured.grammar`, calls or that form. None where nothing is offered.
    ``consumed`` is the answer's text so far."""
    tools = rendered.tools
    if tools is None:
        return None
    most = tools.dialect.max_calls if max_calls is None else min(max_calls, tools.dialect.max_calls)
    thinking = rendered.starts_in_reasoning
    tag_end = rendered.awaits_tag_end and not thinking
    rules = ToolRules(tools.definitions, is_required, most, thinking, tag_end, form_of_answer(form))
    return {"kind": "lark", "grammar": tools.dialect.grammar(rules), "consumed": consumed}


def form_of_answer(form: Mapping[str, Any] | None) -> str:
    """As rules for :class:`ToolRules`; GrammarInvalid for a form that cannot be used, whatever the tools are."""
    if form is None:
        return ""
    from webapp.structured.grammar import check, form_rules

    check(form)
    return form_rules(form)


def check_tools(form: dict[str, Any] | None, tools: OfferedTools) -> None:
    """``invalid_parameter`` naming the tool whose schema cannot be held to; GrammarInvalid where that is none by
    itself."""
    from webapp.structured.grammar import check

    try:
        check(form or {})
    except GrammarInvalid:
        for place, definition in enumerate(tools.definitions):
            _check_alone(definition, tools.dialect, f"tools[{place}].function.parameters")
        raise


def _check_alone(definition: Mapping[str, Any], dialect: ToolDialect, param: str) -> None:
    """The parameters by themselves first: what is said of them there names the parameter."""
    from webapp.structured.grammar import check

    grammar = dialect.grammar(ToolRules((definition,), is_required=True))
    try:
        check({"kind": "json_schema", "schema": definition["parameters"], "lenient": True})
        check({"kind": "lark", "grammar": grammar})
    except GrammarInvalid as exc:
        raise RoostError("invalid_parameter", param=param, reason=exc.params["reason"]) from exc


def _check_nothing_demanded(is_required: bool, form: Mapping[str, Any] | None) -> None:
    if form is not None:
        reason = Text("reason.api.demand_needs_constraints")
        raise RoostError("invalid_parameter", param="response_format", reason=reason)
    if is_required:
        raise RoostError("invalid_parameter", param="tool_choice", reason=Text("reason.api.demand_needs_constraints"))


def _dialect(structure: Structure, preferred: str, info: Inspection) -> ToolDialect:
    names = [dialect.name for dialect in all_dialects()]
    if structure.dialect and structure.dialect not in names:
        raise RoostError(
            "invalid_parameter",
            param="tool_dialect",
            reason=Text("reason.api.is_not_one_of", name=repr(structure.dialect), names=", ".join(names)),
        )
    return dialect_of(structure.dialect or preferred, info)


@dataclass(frozen=True)
class ToolChoice:
    """Only tools of these ``names`` may be called (None: any). ``is_required``: one of them has to be."""

    names: frozenset[str] | None = None
    is_required: bool = False


def read_choice(choice: Any) -> ToolChoice:
    """Of ``tool_choice`` in OpenAI's words. Responses have a function's name, and what is allowed, one level higher
    than chat completions; both are read."""
    if not isinstance(choice, Mapping):
        return ToolChoice(frozenset() if choice == "none" else None, choice == "required")
    if choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools")
        allowed = inner if isinstance(inner, Mapping) else choice
        listed = allowed.get("tools")
        names = frozenset(map(_name_in_choice, listed if isinstance(listed, list) else ()))
        return ToolChoice(names, allowed.get("mode") == "required")
    return ToolChoice(frozenset({_name_in_choice(choice)}), is_required=True)


def _name_in_choice(choice: Any) -> str:
    given = choice if isinstance(choice, Mapping) else {}
    function = given.get("function")
    name = function.get("name") if isinstance(function, Mapping) else given.get("name")
    if given.get("type", "function") != "function" or not isinstance(name, str):
        raise RoostError(
            "invalid_parameter",
            param="tool_choice",
            reason=Text("reason.api.names_a_function_as", form="{type, function: {name}}"),
        )
    return name


def _definitions(tools: tuple[Mapping[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    if len(tools) > MAX_TOOLS:
        raise RoostError(
            "invalid_parameter",
            param="tools",
            reason=Text("reason.api.there_are_too_many", found=len(tools), limit=MAX_TOOLS),
        )
    length = _length(tools)
    if length > MAX_TOOLS_CHARS:
        raise RoostError(
            "invalid_parameter",
            param="tools",
            reason=Text("reason.common.too_long", found=length, limit=MAX_TOOLS_CHARS),
        )
    found: dict[str, dict[str, Any]] = {}
    for place, tool in enumerate(tools):
        if not _is_function(tool):
            continue
        definition = _definition(place, tool)
        name = definition["name"]
        if name in found:
            raise RoostError(
                "invalid_parameter",
                param=f"tools[{place}].function.name",
                reason=Text("reason.storage.tool_name_taken", name=repr(name)),
            )
        found[name] = definition
    if tools and not found:
        raise RoostError(
            "unsupported_parameter",
            param="tools[0].type",
            reason=Text("reason.api.only_functions", found=repr(str(tools[0].get("type"))[:80])),
        )
    return tuple(found.values())


def _is_function(tool: Mapping[str, Any]) -> bool:
    """False for the tools that OpenAI's own server runs (web_search, file_search …), and for free text (custom):
    nobody could carry them out, and a program that sends them offers functions beside them."""
    return "function" in tool or tool.get("type") in (None, "function")


def _length(tools: tuple[Mapping[str, Any], ...]) -> int:
    try:
        return len(json.dumps(tools, ensure_ascii=False))
    except RecursionError as exc:
        raise RoostError("invalid_parameter", param="tools", reason=Text("reason.api.is_nested_too_deeply")) from exc


def _definition(place: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool that is not ``strict`` is never refused for its parameters: what cannot be held to is left out."""
    described = tool.get("function")
    is_strict = (described if isinstance(described, Mapping) else tool).get("strict") is True
    try:
        found = from_openai(tool, is_loose=not is_strict).function
        if not is_strict and not _can_be_held(json.dumps(found["parameters"])):
            found["parameters"] = {"type": "object"}
        return found
    except ToolInvalid as exc:
        raise RoostError("invalid_parameter", param=f"tools[{place}]", reason=exc.message.rstrip(".")) from exc


@lru_cache(512)
def _can_be_held(parameters: str) -> bool:
    """Kept, because programs send the same tools with every request."""
    from webapp.structured.grammar import check

    try:
        check({"kind": "json_schema", "schema": json.loads(parameters), "lenient": True})
    except GrammarInvalid:
        return False
    return True


def _form(wanted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """``strict`` refuses a schema with anything that cannot be held to; without it that is left out, as at OpenAI."""
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object" and wanted.get("schema") is None:
        return {"kind": "json_object"}
    if kind == "regex":
        return {"kind": "regex", "pattern": wanted.get("regex")}
    if kind in ("choice", "grammar"):
        return {"kind": kind, kind: wanted.get(kind)}
    if kind not in ("json_object", "json_schema"):
        names = "text, json_object, json_schema, regex, choice, grammar"
        raise RoostError(
            "invalid_parameter",
            param="response_format.type",
            reason=Text("reason.api.is_not_one_of", name=repr(kind), names=names),
        )
    described = wanted.get("json_schema")
    # llama.cpp and Together have the schema beside the type
    described = described if isinstance(described, Mapping) else wanted
    schema = described.get("schema")
    is_strict = described.get("strict") is True
    if not isinstance(schema, (Mapping, bool)):
        raise RoostError(
            "invalid_parameter", param="response_format.json_schema.schema", reason=Text("reason.common.is_missing")
        )
    schema = held(schema) if isinstance(schema, Mapping) else schema
    return {"kind": "json_schema", "schema": schema, "lenient": not is_strict}
