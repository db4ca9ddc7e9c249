"""Converts the description of a constraint to Lark text for llguidance, with limits on its size; and checks whether a
pattern occurs in a text.

A description is a plain dict, because it crosses the engine pipe and comes from requests:

    {"kind": "json_schema", "schema": {...}}     one JSON value that the schema allows; with "lenient": true a keyword
                                                 or format that llguidance cannot enforce is ignored, not refused
    {"kind": "json_object"}                      any JSON object
    {"kind": "regex", "pattern": "..."}          the whole answer matches
    {"kind": "choice", "choice": ["...", ...]}   one of these texts
    {"kind": "grammar", "grammar": "..."}        GBNF, as in llama.cpp, or Lark; without thinking before it
    {"kind": "lark", "grammar": "..."}           llguidance's dialect of Lark, from its rule `start`

``"thinking": true``: the prompt ends inside thinking, so free text up to ``</think>`` comes first; ``"tag_end": true``:
the prompt ends before the ">" of a tag. ``"consumed"`` is the text of an answer that is being continued. llguidance
supports neither look-around nor back-references and builds its automata lazily, so no pattern takes exponential time;
:func:`parser_limits` refuses grammars that are too large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any

from webapp.errors import GrammarInvalid
from webapp.i18n import Text

MAX_SOURCE_CHARS = 256 * 1024
MAX_ENUM_VALUES = 2_000
MAX_DEPTH = 64
MAX_OPTIONAL = 480
"""Optional properties of an object, without a required one between them. llguidance uses four items for each and has at
most 2,000, but would refuse more only when the object begins. With 1,000 properties a token takes 30 ms."""
KINDS = ("json_schema", "json_object", "regex", "choice", "grammar", "lark")
JSON_SPACING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""At most one space after a comma or colon: a small model might otherwise write spaces without end."""

PLACE = re.compile(r"^(?:at )?\d+\(\d+\): (?:failed to compile JSON schema: )?")

THOUGHT = "thought[lazy]: /(.|\\n)*<\\/think>/\n"


def lark_source(description: Mapping[str, Any]) -> str:
    """The grammar as Lark text. Raises GrammarInvalid if the description is invalid or too large."""
    kind = description.get("kind")
    if kind not in KINDS:
        raise GrammarInvalid(reason=Text("reason.structured.unknown_kind", found=repr(kind), names=", ".join(KINDS)))
    source = _given_source(description) if kind in ("lark", "grammar") else _started(description)
    if len(source) > MAX_SOURCE_CHARS:
        raise GrammarInvalid(reason=Text("reason.common.too_long", found=len(source), limit=MAX_SOURCE_CHARS))
    return source


def json_rule(name: str, schema: Mapping[str, Any] | bool, is_lenient: bool = False) -> str:
    """A Lark rule named ``name`` for one JSON value."""
    check_schema(schema)
    options = {**JSON_SPACING, "lenient": is_lenient}
    body: Any = {**schema, "x-guidance": options} if isinstance(schema, Mapping) else schema
    return f"{name}: %json {json.dumps(body)}\n"


def check_schema(schema: object) -> None:
    """Limits enum values, optional properties and nesting. llguidance checks the rest of the schema."""
    for depth, node in schema_nodes(schema):
        if depth > MAX_DEPTH:
            raise GrammarInvalid(reason=Text("reason.structured.schema_too_deep", limit=MAX_DEPTH))
        values = node.get("enum")
        if isinstance(values, list) and len(values) > MAX_ENUM_VALUES:
            raise GrammarInvalid(
                reason=Text("reason.structured.enum_too_long", found=len(values), limit=MAX_ENUM_VALUES)
            )
        found = _optional_in_a_row(node)
        if found > MAX_OPTIONAL:
            raise GrammarInvalid(reason=Text("reason.structured.too_many_optional", found=found, limit=MAX_OPTIONAL))


def _optional_in_a_row(schema: Mapping[str, Any]) -> int:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or len(properties) <= MAX_OPTIONAL:
        return 0
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    runs = groupby(properties, needed.__contains__)
    return max(0 if is_needed else sum(1 for _ in names) for is_needed, names in runs)


def check(description: Mapping[str, Any]) -> None:
    """Compiles without a vocabulary, to refuse a request early. Raises GrammarInvalid."""
    from llguidance import LLMatcher

    source = lark_source(description)
    is_error, messages = LLMatcher.validate_grammar_with_warnings(
        LLMatcher.grammar_from_lark(source), limits=parser_limits()
    )
    if is_error:
        raise GrammarInvalid(reason=first_line(messages[0]))


def parser_limits() -> Any:
    """Limits for the work of a compilation and of a token, in llguidance's units; its defaults or lower."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, step_max_items=50_000, max_grammar_size=500_000
    )


def first_line(message: str) -> str:
    """The error sentence alone: llguidance adds the whole grammar, and a position in the generated text."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    said = PLACE.sub("", lines[0] if lines else "it cannot be compiled")
    if said.endswith("parse error:"):  # the error of a regex is on later lines
        said = " ".join([said, *(line.removeprefix("error: ") for line in lines if line.startswith("error: "))])
    return said[:300].rstrip(".")


def form_rules(description: Mapping[str, Any]) -> str:
    """The rules for a part of a larger grammar, starting at `form`. Raises GrammarInvalid for a description that is a
    grammar itself."""
    if description["kind"] not in _RULES:
        raise GrammarInvalid(reason=Text("reason.structured.grammar_stands_alone"))
    start, rules = _RULES[description["kind"]](description)
    return f"form: {start}\n{rules}"


def _json_rules(description: Mapping[str, Any]) -> tuple[str, str]:
    """(the right side of the start rule, the other rules)."""
    schema = description.get("schema", {"type": "object"})
    if not isinstance(schema, (Mapping, bool)):
        raise GrammarInvalid(reason=Text("reason.structured.not_a_schema"))
    return "/[ \\n]?/ value", json_rule("value", schema, bool(description.get("lenient")))


def _object_rules(description: Mapping[str, Any]) -> tuple[str, str]:
    return "/[ \\n]?/ value", json_rule("value", {"type": "object"})


def _regex_rules(description: Mapping[str, Any]) -> tuple[str, str]:
    pattern = description.get("pattern")
    if not isinstance(pattern, str) or not pattern:
        raise GrammarInvalid(reason=Text("reason.structured.regex_without_pattern"))
    escaped = _slashes_escaped(pattern).replace("\n", "\\n")
    return "matched", f"matched: /{escaped}/\n"


def _choice_rules(description: Mapping[str, Any]) -> tuple[str, str]:
    choices = description.get("choice")
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise GrammarInvalid(reason=Text("reason.structured.choice_is_a_list_of_texts"))
    return "chosen", "chosen: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in choices) + "\n"


_RULES = {"json_schema": _json_rules, "json_object": _object_rules, "regex": _regex_rules, "choice": _choice_rules}


def _given_source(description: Mapping[str, Any]) -> str:
    source = description.get("grammar")
    if not isinstance(source, str) or not source.strip():
        raise GrammarInvalid(reason=Text("reason.structured.lark_without_grammar"))
    if description["kind"] == "lark":
        return source
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(source))
    except Exception as exc:  # its parser may raise anything
        raise GrammarInvalid(reason=str(exc)[:300]) from exc


def _started(description: Mapping[str, Any]) -> str:
    start, rules = _RULES[description["kind"]](description)
    if description.get("thinking"):
        return f"start: thought {start}\n{THOUGHT}{rules}"
    return f"start: {'/>?/ ' if description.get('tag_end') else ''}{start}\n{rules}"


def _slashes_escaped(pattern: str) -> str:
    """For a Lark terminal, which ends at the first unescaped slash."""
    escaped, is_escaped = [], False
    for character in pattern:
        escaped.append("\\/" if character == "/" and not is_escaped else character)
        is_escaped = character == "\\" and not is_escaped
    return "".join(escaped)


def schema_nodes(schema: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Every object in the schema, with its depth; {} for a boolean, which is a schema too. Without recursion, because a
    schema may be nested very deeply."""
    waiting = [(0, schema)]
    while waiting:
        depth, node = waiting.pop()
        if isinstance(node, Mapping):
            yield depth, node
            waiting += [(depth + 1, value) for value in node.values()]
        elif isinstance(node, bool):
            yield depth, {}
        elif isinstance(node, list):
            waiting += [(depth + 1, value) for value in node]


END_OF_TEXT = 256


class _Bytes:
    """A vocabulary of 256 bytes, for `llguidance.TokenizerWrapper`."""

    eos_token_id = END_OF_TEXT
    bos_token_id = None
    special_token_ids = (END_OF_TEXT,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@lru_cache(1024)
def is_pattern(pattern: str) -> bool:
    """Whether the pattern can be enforced: no look-around, no back-references, not too large."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "pattern": pattern}))
    is_error, _ = LLMatcher.validate_grammar_with_warnings(grammar, limits=parser_limits())
    return not is_error


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern occurs in the text, as in JSON Schema's ``pattern``. True if the pattern cannot be compiled
    (look-around), so that no value is refused for it.

    Takes linear time for any pattern, because users and models choose both. Python's `re` takes exponential time for
    patterns such as ``(a+)+$``; llguidance's automata never backtrack.
    """
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "pattern": pattern}))
    matcher = LLMatcher(_vocabulary(), grammar, log_level=0, limits=parser_limits())
    if matcher.is_error():
        return True
    written = list(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return int(matcher.try_consume_tokens(written)) == len(written) and bool(matcher.is_accepting())


@lru_cache(maxsize=1)
def _vocabulary() -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))
