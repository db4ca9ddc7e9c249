"""What an answer has to look like: the tools a program offers, or the form it wants, as the engine's constraint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.chat.prompt_rendering import RenderedPrompt
from webapp.chat.tool_dialects import OfferedTools, ToolDialect, all_dialects
from webapp.errors import ParameterInvalid, ParameterUnsupported, ToolInvalid
from webapp.services.chat.tool_offer import call_constraint, dialect_of
from webapp.services.completion.order import Structure
from webapp.tools.definition import from_openai
from webapp.weights.inspection import Inspection

MAX_TOOLS = 128


def offered_by(structure: Structure, info: Inspection, dialect: str = "") -> OfferedTools:
    """In this dialect ("": the model's own), which writes the calls of the past even where nothing is offered."""
    definitions = () if structure.tool_choice == "none" else tuple(map(_definition, _numbered(structure.tools)))
    name = chosen_name(structure)
    if name is not None:
        definitions = tuple(definition for definition in definitions if definition["name"] == name)
        if not definitions:
            raise ParameterInvalid(param="tool_choice", reason=f"{name!r} is none of the tools")
    if structure.tool_choice == "required" and not definitions:
        raise ParameterInvalid(param="tool_choice", reason="there are no tools to choose from")
    return OfferedTools(_dialect(structure, dialect, info), definitions, structure.is_constrained)


def constraint_of(structure: Structure, rendered: RenderedPrompt) -> dict[str, Any] | None:
    """None for free text. GrammarInvalid for a schema that cannot be used, before anything is queued."""
    consumed = rendered.continued.text if rendered.continued else ""
    form = _form(structure.response_format)
    if rendered.tools is not None:
        if form is not None:
            raise ParameterUnsupported(
                param="response_format", reason="an answer that may call tools has no other form"
            )
        is_required = structure.tool_choice == "required" or chosen_name(structure) is not None
        if not structure.is_constrained:
            _check_nothing_demanded(is_required)
            return None
        most = None if structure.is_parallel else 1
        form = call_constraint(rendered, is_required=is_required, max_calls=most, consumed=consumed)
    elif form is not None:
        thinking = rendered.starts_in_reasoning
        tag_end = rendered.awaits_tag_end and not thinking
        form |= {"thinking": thinking, "tag_end": tag_end, "consumed": consumed}
    if form is not None:
        from webapp.structured.grammar import check

        check(form)
    return form


def _check_nothing_demanded(is_required: bool) -> None:
    if is_required:
        raise ParameterInvalid(param="tool_choice", reason="a call can be demanded only with constrained decoding")


def _dialect(structure: Structure, preferred: str, info: Inspection) -> ToolDialect:
    names = [dialect.name for dialect in all_dialects()]
    if structure.dialect and structure.dialect not in names:
        raise ParameterInvalid(param="tool_dialect", reason=f"{structure.dialect!r} is none of {', '.join(names)}")
    return dialect_of(structure.dialect or preferred, info)


def chosen_name(structure: Structure) -> str | None:
    """Of ``tool_choice`` naming one function, in OpenAI's form."""
    choice = structure.tool_choice
    if not isinstance(choice, Mapping):
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if choice.get("type", "function") != "function" or not isinstance(name, str):
        raise ParameterInvalid(param="tool_choice", reason="it names a function as {type, function: {name}}")
    return name


def _numbered(tools: tuple[Mapping[str, Any], ...]) -> list[tuple[int, Mapping[str, Any]]]:
    if len(tools) > MAX_TOOLS:
        raise ParameterInvalid(param="tools", reason=f"there are {len(tools)}; the limit is {MAX_TOOLS}")
    return list(enumerate(tools))


def _definition(numbered: tuple[int, Mapping[str, Any]]) -> dict[str, Any]:
    place, tool = numbered
    try:
        return from_openai(tool).function
    except ToolInvalid as exc:
        raise ParameterInvalid(param=f"tools[{place}]", reason=exc.message.rstrip(".")) from exc


def _form(wanted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {"kind": "json_object"}
    if kind != "json_schema":
        raise ParameterInvalid(param="response_format.type", reason=f"{kind!r} is not text, json_object or json_schema")
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, (Mapping, bool)):
        raise ParameterInvalid(param="response_format.json_schema.schema", reason="it is missing")
    return {"kind": "json_schema", "schema": schema}
