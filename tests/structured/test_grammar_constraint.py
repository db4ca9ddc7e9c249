"""A constrained answer follows its grammar, whatever the model prefers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from webapp.engine.sampler import Constraint
from webapp.errors import GrammarInvalid
from webapp.structured.grammar import MAX_ENUM_VALUES, MAX_OPTIONAL, check, json_rule
from webapp.structured.grammar_constraint import GrammarConstraints
from webapp.tokenizer.loading import WorldTokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "华氏"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}


def masked(constraint: Constraint, logits: np.ndarray) -> np.ndarray:
    """The logits with all disallowed tokens set to minus infinity."""
    usable = np.packbits(np.pad(np.isfinite(logits), (0, -len(logits) % 32)), bitorder="little").view(np.uint32)
    allowed = np.unpackbits(constraint.mask(usable).view(np.uint8), count=len(logits), bitorder="little")
    return np.where(allowed, logits, np.float32(-np.inf))


def random_answer(
    constraints: GrammarConstraints, tokenizer: WorldTokenizer, description: dict, seed: int, most: int = 300
) -> str:
    """The text of a model without preferences; it ends as soon as it may."""
    rng = np.random.default_rng(seed)
    constraint = constraints(description)
    token_ids: list[int] = []
    while len(token_ids) < most:
        logits = rng.normal(size=tokenizer.vocab_size).astype(np.float32)
        logits[0] = 10.0
        logits = masked(constraint, logits)
        best = int(logits.argmax())
        assert logits[best] > -np.inf
        if best == 0:
            return tokenizer.decode(token_ids)
        token_ids.append(best)
        constraint.accept(best)
    raise AssertionError("it found no end")


@pytest.mark.parametrize("seed", range(12))
def test_random_logits_still_give_json_of_the_schema(
    constraints: GrammarConstraints, tokenizer: WorldTokenizer, seed: int
) -> None:
    value = json.loads(random_answer(constraints, tokenizer, {"kind": "json_schema", "schema": SCHEMA}, seed))
    assert set(value) <= {"city", "unit", "days"} and value["unit"] in ("celsius", "华氏")
    assert isinstance(value["city"], str) and len(value["city"]) <= 12
    assert "days" not in value or 1 <= value["days"] <= 14


def test_a_regex_applies_to_the_whole_answer(constraints: GrammarConstraints, tokenizer: WorldTokenizer) -> None:
    pattern = r"https?://[a-z]{3,8}/\d{2}"
    for seed in range(5):
        answer = random_answer(constraints, tokenizer, {"kind": "regex", "pattern": pattern}, seed)
        assert re.fullmatch(pattern, answer)


def test_a_thought_may_say_anything_before_the_json(constraints: GrammarConstraints, tokenizer: WorldTokenizer) -> None:
    constraint = constraints({"kind": "json_schema", "schema": SCHEMA, "thinking": True})
    for token_id in tokenizer.encode(">Let me see: {not json} 好吧</think>\n"):
        logits = np.zeros(tokenizer.vocab_size, np.float32)
        logits = masked(constraint, logits)
        assert logits[token_id] == 0
        constraint.accept(token_id)
    logits = np.zeros(tokenizer.vocab_size, np.float32)
    logits = masked(constraint, logits)
    allowed = {tokenizer.decode([token_id])[:1] for token_id in (logits == 0).nonzero()[0].tolist()}
    assert allowed == {"{"}


def test_an_answer_is_continued_where_it_ended(constraints: GrammarConstraints, tokenizer: WorldTokenizer) -> None:
    begun = '{"city":"Paris", "unit":'
    description = {"kind": "json_schema", "schema": SCHEMA, "consumed": begun}
    assert json.loads(begun + random_answer(constraints, tokenizer, description, 3))["city"] == "Paris"


def test_nothing_but_the_end_follows_a_complete_value(
    constraints: GrammarConstraints, tokenizer: WorldTokenizer
) -> None:
    constraint = constraints({"kind": "json_schema", "schema": {"const": 1}, "consumed": "1"})
    logits = np.zeros(tokenizer.vocab_size, np.float32)
    logits = masked(constraint, logits)
    assert (logits == 0).nonzero()[0].tolist() == [0]


NESTED: dict = {}
for _ in range(80):
    NESTED = {"type": "object", "properties": {"a": NESTED}}


def optional(count: int) -> dict:
    return {"type": "object", "properties": {f"p{index}": {"type": "string"} for index in range(count)}}


REFUSED = [
    {"kind": "yaml"},
    {"kind": "json_schema", "schema": "text"},
    {"kind": "json_schema", "schema": {"enum": [f"value {index}" for index in range(10_000)]}},
    {"kind": "json_schema", "schema": NESTED},
    {"kind": "json_schema", "schema": optional(MAX_OPTIONAL + 1)},
    {"kind": "json_schema", "schema": {"type": "nonsense"}},
    {"kind": "json_schema", "schema": {"type": "object", "if": {}, "then": {}}},
    {"kind": "json_schema", "schema": {"type": "string", "pattern": "(?=look)ahead"}},
    {"kind": "json_schema", "schema": {"type": "string", "description": "x" * 300_000}},
    {"kind": "json_schema", "schema": {"$ref": "#/$defs/missing"}},
    {"kind": "regex", "pattern": "(unclosed"},
    {"kind": "regex", "pattern": ""},
    {"kind": "regex"},
    {"kind": "lark", "grammar": "start: missing"},
    {"kind": "lark", "grammar": " "},
]


@pytest.mark.parametrize("description", REFUSED, ids=lambda row: str(row)[:48])
def test_what_cannot_be_compiled_is_refused_in_words(description: dict) -> None:
    with pytest.raises(GrammarInvalid) as caught:
        check(description)
    assert "\n" not in caught.value.message and len(caught.value.message) < 500


@pytest.mark.parametrize(
    "description",
    [
        {"kind": "json_object"},
        {"kind": "json_schema", "schema": True},
        {"kind": "json_schema", "schema": {"enum": [str(index) for index in range(MAX_ENUM_VALUES)]}},
        {
            "kind": "json_schema",
            "schema": {
                "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
                "$ref": "#/$defs/node",
            },
        },
        {"kind": "regex", "pattern": "((a+)+)+b"},
        {"kind": "regex", "pattern": r"a/b\/c"},
        {"kind": "lark", "grammar": "start: " + "value\n" + json_rule("value", SCHEMA)},
    ],
    ids=lambda row: str(row)[:48],
)
def test_what_looks_dangerous_but_is_bounded_is_accepted(description: dict) -> None:
    check(description)


@pytest.mark.parametrize("gap", [[], [f"p{MAX_OPTIONAL}"]], ids=["optional", "one_is_required"])
def test_an_object_of_as_many_properties_as_are_accepted_can_begin(
    constraints: GrammarConstraints, tokenizer: WorldTokenizer, gap: list[str]
) -> None:
    """llguidance refuses more only here, after the answer has begun."""
    schema = {**optional(MAX_OPTIONAL * (1 + len(gap)) + len(gap)), "required": gap}
    check({"kind": "json_schema", "schema": schema})
    constraint, logits = constraints({"kind": "json_schema", "schema": schema}), np.zeros(tokenizer.vocab_size)
    masked(constraint, logits)
    for token_id in tokenizer.encode('{"'):
        constraint.accept(token_id)
        masked(constraint, logits)


@pytest.mark.parametrize("part", [{"uniqueItems": True}, {"not": {}}, {"type": "string", "format": "password"}])
def test_what_a_grammar_cannot_enforce_is_left_out_if_requested(part: dict) -> None:
    description = {"kind": "json_schema", "schema": {"type": "object", "properties": {"a": part}}}
    with pytest.raises(GrammarInvalid):
        check(description)
    check({**description, "lenient": True})


def test_a_grammar_that_breaks_in_the_engine_ends_its_sequence_with_a_reason(
    constraints: GrammarConstraints, tokenizer: WorldTokenizer
) -> None:
    constraint = constraints({"kind": "lark", "grammar": "start: missing"})
    with pytest.raises(GrammarInvalid):
        masked(constraint, np.zeros(tokenizer.vocab_size, np.float32))


def test_a_model_that_lacks_a_token_spells_it_otherwise(constraints: GrammarConstraints, tokenizer: WorldTokenizer):
    """The bundled model has only a part of the vocabulary, but all single bytes."""
    wanted = "Île 北京 back\\slash"
    constraint = constraints({"kind": "json_schema", "schema": {"const": wanted}})
    has_token = np.zeros(tokenizer.vocab_size, bool)
    has_token[:257] = True
    token_ids: list[int] = []
    while not token_ids or token_ids[-1] != 0:
        logits = np.where(has_token, 0.0, -np.inf).astype(np.float32)
        logits = masked(constraint, logits)
        assert logits.max() > -np.inf, tokenizer.decode(token_ids)
        token_ids.append(int(logits.argmax()))
        constraint.accept(token_ids[-1])
    assert json.loads(tokenizer.decode(token_ids)) == wanted
