"""Whatever a model without preferences writes, its calls are of known tools, with arguments that follow the schema."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable

import jsonschema
import pytest

from tests.errors import raises_code
from tests.structured.test_grammar_constraint import random_answer
from webapp.chat.messages import CallDelta, ContentDelta
from webapp.chat.tool_dialects import RUNNER_LEGACY, CallSyntax, ToolDialect, all_dialects, only_opening
from webapp.chat.tool_grammars import ToolRules, enforced_schema
from webapp.chat.tool_parser import ToolCallParser
from webapp.structured.grammar import check, form_rules
from webapp.structured.grammar_constraint import GrammarConstraints
from webapp.tokenizer.loading import WorldTokenizer

WEATHER = {
    "name": "get_weather",
    "description": "Weather in a city",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city"],
    },
}
PLACE = {
    "name": "add-place",
    "parameters": {
        "$defs": {"at": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}},
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/at"}, "tags": {"type": "array", "items": {"const": "t"}, "maxItems": 2}},
        "required": ["at"],
    },
}
PING = {"name": "ping"}
TOOLS = (WEATHER, PLACE, PING)


def written(constraints: GrammarConstraints, tokenizer: WorldTokenizer, source: str, seed: int, begun: str = "") -> str:
    description = {"kind": "lark", "grammar": source, "consumed": begun}
    return begun + random_answer(constraints, tokenizer, description, seed, most=400)


@pytest.fixture(scope="module")
def required(constraints: GrammarConstraints, tokenizer: WorldTokenizer) -> Callable[[ToolDialect], list[str]]:
    """required(dialect) -> twenty answers with one to three required calls; generated once for all tests."""

    @functools.cache
    def texts(dialect: ToolDialect) -> list[str]:
        source = dialect.grammar(ToolRules(TOOLS, is_required=True, max_calls=3))
        check({"kind": "lark", "grammar": source})
        return [written(constraints, tokenizer, source, seed) for seed in range(20)]

    return texts


def read(dialect: ToolDialect, text: str, syntax: CallSyntax | None = None) -> tuple[str, list[tuple[str, dict]]]:
    ids = itertools.count()
    parser = ToolCallParser(syntax or dialect.syntax, [tool["name"] for tool in TOOLS], lambda: str(next(ids)))
    pieces = parser.feed(text) + parser.finish()
    content = "".join(piece.text for piece in pieces if isinstance(piece, ContentDelta))
    calls = [piece for piece in pieces if isinstance(piece, CallDelta)]
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


def assert_valid(name: str, arguments: dict) -> None:
    if name == "get_weather":
        assert set(arguments) <= {"city", "unit", "days"} and len(arguments["city"]) <= 8
        assert arguments.get("unit", "celsius") in ("celsius", "fahrenheit")
        assert 1 <= arguments.get("days", 1) <= 9
    elif name == "add-place":
        assert set(arguments) <= {"at", "tags"} and isinstance(arguments["at"]["x"], bool) and len(arguments["at"]) == 1
        assert arguments.get("tags", []) in ([], ["t"], ["t", "t"])
    else:
        assert (name, arguments) == ("ping", {})


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_a_required_call_is_a_valid_call_and_nothing_else(
    dialect: ToolDialect, required: Callable[[ToolDialect], list[str]]
) -> None:
    names = set()
    for text in required(dialect):
        content, calls = read(dialect, text)
        assert content.strip() == "" and 1 <= len(calls) <= 3
        for name, arguments in calls:
            assert_valid(name, arguments)
            names.add(name)
    assert len(names) > 1


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
@pytest.mark.parametrize("parameters", [{"type": "object"}, {"type": "object", "title": "ping", "description": "-"}])
def test_nothing_is_invented_for_a_tool_without_arguments(
    dialect: ToolDialect, parameters: dict, constraints: GrammarConstraints, tokenizer: WorldTokenizer
) -> None:
    rules = ToolRules(({"name": "ping", "parameters": parameters},), is_required=True, max_calls=1)
    _, calls = read(dialect, written(constraints, tokenizer, dialect.grammar(rules), 1))
    assert calls == [("ping", {})]


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_text_is_free_until_a_call_begins(
    dialect: ToolDialect, constraints: GrammarConstraints, tokenizer: WorldTokenizer
) -> None:
    source = dialect.grammar(ToolRules(TOOLS))
    plain = 'Hello! Use `f(x)` or ```python\nprint({"a": 1})\n``` 好。\n\n'
    assert written(constraints, tokenizer, source, 1, plain) == plain
    begun = "One moment. \n" + dialect.syntax.opening.format(name="get_weather")
    begun += "(" if dialect.syntax.is_keyword else ""
    content, calls = read(dialect, written(constraints, tokenizer, source, 2, begun))
    assert content.strip() == "One moment." and len(calls) >= 1
    for name, arguments in calls:
        assert_valid(name, arguments)


CALL_LIKE = {"properties": {"name": {"const": "get_weather"}, "arguments": {"const": {"city": "Rome"}}}}


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_with_a_required_form_an_answer_is_calls_or_the_form(
    dialect: ToolDialect, constraints: GrammarConstraints, tokenizer: WorldTokenizer
) -> None:
    """Even if the schema looks like a call of an offered tool."""
    schema = enforced_schema({"type": "object", **CALL_LIKE, "required": ["name", "arguments"]})
    form = form_rules({"kind": "json_schema", "schema": schema})
    source = dialect.grammar(ToolRules(TOOLS, max_calls=2, form=form))
    check({"kind": "lark", "grammar": source})
    forms, called = 0, 0
    for seed in range(12):
        content, calls = read(dialect, written(constraints, tokenizer, source, seed), only_opening(dialect.syntax))
        if calls:
            assert content.strip() == ""
            for name, arguments in calls:
                assert_valid(name, arguments)
        else:
            jsonschema.validate(json.loads(content), schema)
        forms, called = forms + (not calls), called + bool(calls)
    assert forms and called


NUMBERS = {"type": "object", "properties": {"n": {"type": "integer"}, "x": {"type": "number"}}, "required": ["n", "x"]}


def test_numbers_end(constraints: GrammarConstraints, tokenizer: WorldTokenizer) -> None:
    """Whatever a model prefers: at most 16 digits, 9 after the point, and no exponent."""
    description = {"kind": "json_schema", "schema": enforced_schema(NUMBERS)}
    for digits in ("1" * 16, "-" + "9" * 16):
        begun = f'{{"n": {digits}'
        assert random_answer(constraints, tokenizer, {**description, "consumed": begun}, 1).startswith(",")
    begun = '{"n": 1, "x": 0.' + "3" * 9
    assert random_answer(constraints, tokenizer, {**description, "consumed": begun}, 1) == "}"


@pytest.mark.parametrize("bounds", [{"minimum": 10**18}, {"maximum": 10**20}, {"enum": [10**17]}])
def test_a_schema_may_ask_for_larger_numbers_itself(bounds: dict) -> None:
    assert enforced_schema({"type": "integer", **bounds}) == {"type": "integer", **bounds}


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_a_thought_comes_before_a_required_call(
    dialect: ToolDialect, constraints: GrammarConstraints, tokenizer: WorldTokenizer
) -> None:
    source = dialect.grammar(ToolRules(TOOLS, is_required=True, thinking=True))
    thought = ">Which tool?\n```json\n{oops</think>"
    text = written(constraints, tokenizer, source, 4, thought)
    assert len(read(dialect, text.removeprefix(thought))[1]) >= 1


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_the_end_of_an_open_tag_may_come_before_a_required_call(
    dialect: ToolDialect, constraints: GrammarConstraints, tokenizer: WorldTokenizer
) -> None:
    source = dialect.grammar(ToolRules(TOOLS, is_required=True, tag_end=True))
    assert len(read(dialect, written(constraints, tokenizer, source, 5, ">").removeprefix(">"))[1]) >= 1


TREE = {
    "name": "tree",
    "parameters": {
        "properties": {
            "leaf": {"type": "object", "properties": {"enum": {"$ref": "#/properties/kind"}}, "required": ["enum"]},
            "kind": {"enum": ["a", "b"], "default": "#/"},
            "branches": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
        },
        "required": ["leaf"],
    },
}


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_references_are_to_the_parameters_own_beginning(
    dialect: ToolDialect, constraints: GrammarConstraints, tokenizer: WorldTokenizer
) -> None:
    """In a grammar, the parameters are inside the schema of a call; and arguments are always an object."""
    source = dialect.grammar(ToolRules((TREE,), is_required=True, max_calls=1))
    check({"kind": "lark", "grammar": source})
    parser = ToolCallParser(dialect.syntax, ["tree"], lambda: "id")
    found = []
    for seed in range(12):
        text = written(constraints, tokenizer, source, seed)
        [call] = [piece for piece in parser.feed(text) + parser.finish() if isinstance(piece, CallDelta)]
        jsonschema.validate(json.loads(call.arguments), {"type": "object", **TREE["parameters"]})
        found.append(call.arguments)
    assert any("branches" in arguments for arguments in found)


def test_parameters_without_references_need_no_copy_of_the_whole() -> None:
    parameters = {"type": "object", "properties": {f"p{number}": True for number in range(1000)}}
    source = RUNNER_LEGACY.grammar(ToolRules(({"name": "f", "parameters": parameters},)))
    assert len(source) < 300 * 1000


def test_copies_that_are_too_long_are_refused_before_they_are_made() -> None:
    properties = {f"p{number}": {"$ref": "#/$defs/a"} for number in range(1000)}
    parameters = {"type": "object", "properties": properties, "$defs": {"a": {"type": "string"}}}
    with raises_code("grammar_invalid"):
        RUNNER_LEGACY.grammar(ToolRules(({"name": "f", "parameters": parameters},)))


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_pieces_of_what_a_grammar_lets_through_join_to_the_whole(
    dialect: ToolDialect, required: Callable[[ToolDialect], list[str]]
) -> None:
    """In the form that the grammar allows, arguments can be streamed as they are written."""
    names = [tool["name"] for tool in TOOLS]
    for text in required(dialect):
        parser = ToolCallParser(dialect.syntax, names, lambda: "id", is_held=True)
        pieces = [piece for character in text for piece in parser.feed(character)] + parser.finish()
        calls = [piece for piece in pieces if isinstance(piece, CallDelta)]
        begun = [piece.name for piece in calls if piece.name]
        arguments = "".join(piece.arguments for piece in calls)
        whole = read(dialect, text)[1]
        assert begun == [name for name, _ in whole] and not [call for call in calls if call.name and call.arguments]
        assert json.loads(f"[{arguments.replace('}{', '},{')}]") == [found for _, found in whole]
