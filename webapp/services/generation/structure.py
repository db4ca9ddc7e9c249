"""The required form of an answer: the tools it may call and its output format, as in OpenAI's requests, converted to
the tools in the prompt and the constraint for the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from webapp.chat.messages import Message, Role
from webapp.chat.prompts import RenderedPrompt
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools, all_dialects, compact_json
from webapp.chat.tool_grammars import ToolRules, enforced_schema
from webapp.errors import GrammarInvalid, RoostError, ToolInvalid
from webapp.i18n import Text
from webapp.services.generation.request import Structure
from webapp.structured.grammar import check, check_schema, form_rules
from webapp.tools.definition import from_openai

MAX_TOOLS = 128
MAX_TOOLS_CHARS = 512 * 1024
"""Limit for all tools together; each tool has its own limit too."""


def offered_by(structure: Structure) -> OfferedTools:
    """In any dialect: :func:`.request.format_of` chooses that of the prompt. Raises ``invalid_parameter``."""
    names = [dialect.name for dialect in all_dialects()]
    if structure.dialect and structure.dialect not in names:
        raise RoostError(
            "invalid_parameter",
            param="tool_dialect",
            reason=Text("reason.api.is_not_one_of", name=repr(structure.dialect), names=", ".join(names)),
        )
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
        others = ", ".join(left_out(structure.tools))
        missing = Text("reason.api.no_tools_to_choose_from")
        reason = Text("reason.api.only_functions", found=others) if others else missing
        raise RoostError("invalid_parameter", param="tool_choice", reason=reason)
    has_form = not choice.is_required and _form(structure.response_format) is not None
    return OfferedTools(G1X_JSON, definitions, structure.is_constrained, has_form)


MAX_SENTENCE_CHARS = 8_000
FORM_ALONE = "Answer in JSON that fits this schema:"
FORM_WITH_TOOLS = "When you call no tool, answer in JSON that fits this schema:"


def form_sentence(messages: Sequence[Message], structure: Structure, has_tools: bool) -> str:
    """The part of the prompt that describes the answer's form. A grammar alone ensures valid JSON, but a model that
    does not know the meaning of the values can only guess them.

    "" if a message mentions JSON and names each property, if a call is required instead of the form, or if the schema
    is longer than :data:`MAX_SENTENCE_CHARS`.
    """
    form = _form(structure.response_format)
    if form is None or form["kind"] != "json_schema" or read_choice(structure.tool_choice).is_required:
        return ""
    schema = _described(structure.response_format or {}).get("schema")
    sentence = f"{FORM_WITH_TOOLS if has_tools else FORM_ALONE} {compact_json(schema)}"
    said = (message.content for message in messages if message.role in (Role.SYSTEM, Role.USER))
    return "" if len(sentence) > MAX_SENTENCE_CHARS or any(_describes(text, schema) for text in said) else sentence


def _describes(text: str, schema: Any) -> bool:
    names = schema.get("properties") if isinstance(schema, Mapping) else None
    return "json" in text.lower() and all(name in text for name in names or ())


def constraint_of(structure: Structure, rendered: RenderedPrompt) -> dict[str, Any] | None:
    """None for free text. Raises GrammarInvalid for an unusable schema, before anything is queued."""
    found = _constraint_of(structure, rendered)
    if structure.thinking_tokens is None or not rendered.starts_in_reasoning:
        return found
    return {"kind": "thought", "tokens": structure.thinking_tokens, "then": found}


def _constraint_of(structure: Structure, rendered: RenderedPrompt) -> dict[str, Any] | None:
    consumed = rendered.continued.text if rendered.continued else ""
    form = _form(structure.response_format)
    if rendered.tools is not None:
        is_required = read_choice(structure.tool_choice).is_required
        if not structure.is_constrained:
            _check_nothing_demanded(is_required, form)
            return None
        most = None if structure.is_parallel else 1
        form = None if is_required else form
        try:
            for definition in rendered.tools.definitions:
                check_schema(definition["parameters"])
            found = call_constraint(rendered, is_required=is_required, max_calls=most, consumed=consumed, form=form)
            check(found or {})
        except GrammarInvalid:
            check_each(rendered.tools)
            raise
        return found
    if form is not None:
        thinking = rendered.starts_in_reasoning
        tag_end = rendered.awaits_tag_end and not thinking
        form |= {"thinking": thinking, "tag_end": tag_end, "consumed": consumed}
        check(form)
    return form


def call_constraint(
    rendered: RenderedPrompt,
    *,
    is_required: bool = False,
    max_calls: int | None = None,
    consumed: str = "",
    form: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """For ``GenerationRequest.constraint``: free text until a call begins, then a call of an offered tool. With
    ``form``, a description as in :mod:`webapp.structured.grammar`: calls or that form. None if no tools are offered.
    ``consumed``: the answer's text so far."""
    tools = rendered.tools
    if tools is None:
        return None
    most = tools.dialect.max_calls if max_calls is None else min(max_calls, tools.dialect.max_calls)
    thinking = rendered.starts_in_reasoning
    tag_end = rendered.awaits_tag_end and not thinking
    rules = ToolRules(tools.definitions, is_required, most, thinking, tag_end, form_of_answer(form))
    return {"kind": "lark", "grammar": tools.dialect.grammar(rules), "consumed": consumed}


def form_of_answer(form: Mapping[str, Any] | None) -> str:
    """As rules for :class:`ToolRules`; raises GrammarInvalid for a form that is unusable with any tools."""
    if form is None:
        return ""
    check(form)
    return form_rules(form)


def check_each(tools: OfferedTools) -> None:
    """Raises ``invalid_parameter`` with the tool whose schema cannot be enforced, if a single tool is the reason.
    Checks the parameters alone first, because those errors name the parameter."""
    for place, definition in enumerate(tools.definitions):
        try:
            check({"kind": "json_schema", "schema": definition["parameters"], "lenient": True})
            check({"kind": "lark", "grammar": tools.dialect.grammar(ToolRules((definition,), is_required=True))})
        except GrammarInvalid as exc:
            param, reason = f"tools[{place}].function.parameters", exc.params["reason"]
            raise RoostError("invalid_parameter", param=param, reason=reason) from exc


def _check_nothing_demanded(is_required: bool, form: Mapping[str, Any] | None) -> None:
    if form is not None:
        reason = Text("reason.api.demand_needs_constraints")
        raise RoostError("invalid_parameter", param="response_format", reason=reason)
    if is_required:
        raise RoostError("invalid_parameter", param="tool_choice", reason=Text("reason.api.demand_needs_constraints"))


class ToolChoice(Struct, frozen=True):
    """Only tools with these ``names`` may be called (None: any). ``is_required``: one of them must be called."""

    names: frozenset[str] | None = None
    is_required: bool = False


def read_choice(choice: Any) -> ToolChoice:
    """Parses OpenAI's ``tool_choice``. The Responses API has a function's name and the allowed tools one level higher
    than chat completions; both are accepted."""
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
        if not is_function(tool):
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
    return tuple(found.values())


def is_function(tool: Mapping[str, Any]) -> bool:
    """False for tools that the servers of OpenAI or Anthropic run (web_search, file_search …), tools that their models
    know without a schema (bash_20250124), and free text (custom): nothing here can run them, and most programs that
    send them also offer functions."""
    return "function" in tool or tool.get("type") in (None, "function")


def left_out(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The types of the tools that are not offered, without repeats, in a form for a header."""
    types = (
        re.sub(r"[^\w.:-]", "", str(tool.get("type")), flags=re.ASCII)[:80] for tool in tools if not is_function(tool)
    )
    return list(dict.fromkeys(types))


def _length(tools: tuple[Mapping[str, Any], ...]) -> int:
    try:
        return len(json.dumps(tools, ensure_ascii=False))
    except RecursionError as exc:
        raise RoostError("invalid_parameter", param="tools", reason=Text("reason.api.is_nested_too_deeply")) from exc


def _definition(place: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool that is not ``strict`` is never refused for its parameters: unsupported constraints are dropped."""
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
    """Cached, because programs send the same tools with every request."""
    try:
        check({"kind": "json_schema", "schema": json.loads(parameters), "lenient": True})
    except GrammarInvalid:
        return False
    return True


def _form(wanted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """``strict`` refuses a schema with unsupported parts; without it they are dropped, as OpenAI does."""
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
    described = _described(wanted)
    schema = described.get("schema")
    is_strict = described.get("strict") is True
    if not isinstance(schema, (Mapping, bool)):
        raise RoostError(
            "invalid_parameter", param="response_format.json_schema.schema", reason=Text("reason.common.is_missing")
        )
    if isinstance(schema, Mapping):
        check_schema(schema)  # checks the depth before recursion
        schema = enforced_schema(schema)
    return {"kind": "json_schema", "schema": schema, "lenient": not is_strict}


def _described(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object with the schema: llama.cpp and Together have it next to the type."""
    found = wanted.get("json_schema")
    return found if isinstance(found, Mapping) else wanted
