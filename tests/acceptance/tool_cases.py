"""New tool sets, with one request each: half as people would define them, half with random schemas."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.starter.data.heldout import tool_cases

MAX_DEPTH = 3
NAMES = ("name", "größe", "城市", "a b", 'quote"d', "x-1", "List", "value", "from", "is_on", "tags", "limit", "note")
WORDS = ("red", "Île", "北京", "it's", 'say "hi"', "back\\slash", "```", "</tool_call>", "", "🐦", "tab\there")


@dataclass(frozen=True)
class Case:
    """``tools``: entries of OpenAI's list. ``choice``: as in a request."""

    tools: list[dict[str, Any]]
    prompt: str
    choice: str


def cases(count: int, seed: int = 1) -> list[Case]:
    """Even cases let the model choose among tools like those in its training; odd ones require a call with a random
    schema."""
    rng = random.Random(f"tool calls {seed}")
    natural = tool_cases(2 * count + 20)
    rng.shuffle(natural)
    found = []
    for number in range(count):
        if number % 2 == 0:
            case = natural[number]
            found.append(Case(_entries(case.tools), case.messages[-1]["content"], "auto"))
        else:
            tools = [_random_function(rng, index) for index in range(rng.randint(1, 4))]
            found.append(Case(_entries(tools), f"Please call {rng.choice(tools)['name']}.", "required"))
    return found


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Limited everywhere, so that an answer of limited length can satisfy it."""
    kinds = ["string", "integer", "number", "boolean", "enum", "const", "pattern", "null"]
    if depth < MAX_DEPTH:
        kinds += ["object", "array", "anyOf", "ref"]
    return _MAKERS[rng.choice(kinds)](rng, depth)


def _entries(functions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": function} for function in functions]


def _random_function(rng: random.Random, index: int) -> dict[str, Any]:
    parameters = _object(rng, 0)
    if "$ref" in json.dumps(parameters):
        parameters["$defs"] = {"leaf": random_schema(rng, MAX_DEPTH)}
    return {"name": f"tool_{index}", "description": f"Does thing {index}", "parameters": parameters}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(0 if depth else 1, 4))
    properties = {name: random_schema(rng, depth + 1) for name in names}
    made: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.7:
        made["required"] = rng.sample(names, rng.randint(0, len(names)))
    if rng.random() < 0.5:
        made["additionalProperties"] = False
    return made


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    return {
        "type": "array",
        "items": random_schema(rng, depth + 1),
        "minItems": least,
        "maxItems": least + rng.randint(0, 2),
    }


def _integer(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(-1000, 1000)
    return {"type": "integer", "minimum": least, "maximum": least + rng.randint(0, 500)}


def _number(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(-20, 20)
    return {"type": "number", "minimum": least, "exclusiveMaximum": least + rng.randint(1, 9)}


def _pattern(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": "string", "pattern": rng.choice(("^[A-Z]{3}-[0-9]{2}$", "^(on|off)$", "^#[0-9a-f]{6}$"))}


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(rng, depth + 1) for _ in range(rng.randint(2, 3))]}


_MAKERS = {
    "string": lambda rng, depth: {"type": "string", "maxLength": rng.randint(1, 12)},
    "integer": _integer,
    "number": _number,
    "boolean": lambda rng, depth: {"type": "boolean"},
    "null": lambda rng, depth: {"type": "null"},
    "enum": lambda rng, depth: {"enum": rng.sample([*WORDS, 1, 2.5, True, None], rng.randint(1, 6))},
    "const": lambda rng, depth: {"const": rng.choice(WORDS)},
    "pattern": _pattern,
    "object": _object,
    "array": _array,
    "anyOf": _any_of,
    "ref": lambda rng, depth: {"$ref": "#/$defs/leaf"},
}
