"""A constrained request through the whole engine: its output is valid, and other requests are not affected."""

from __future__ import annotations

import json

from msgspec.structs import replace

from tests.manager.conftest import MakeManager, assert_failed, last_output, request
from webapp.engine.outputs import FinishReason, GenerationRequest

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}


def constrained(**description: object) -> GenerationRequest:
    return replace(request(max_tokens=200), constraint=dict(description))


def test_an_answer_of_noise_is_json_of_the_schema(make_manager: MakeManager) -> None:
    manager = make_manager("fake vocab=256")
    output = last_output(manager.submit(constrained(kind="json_schema", schema=SCHEMA)))
    assert output.finish_reason is FinishReason.STOP
    value = json.loads(manager.tokenizer().decode(output.token_ids))
    assert set(value) == {"city", "warm"} and isinstance(value["warm"], bool)


def test_other_sequences_are_not_affected(make_manager: MakeManager) -> None:
    manager = make_manager("fake vocab=256")
    alone = last_output(manager.submit(request(max_tokens=40))).token_ids
    handles = [manager.submit(constrained(kind="json_schema", schema=SCHEMA)), manager.submit(request(max_tokens=40))]
    outputs = [last_output(handle) for handle in handles]
    assert outputs[1].token_ids == alone and outputs[0].finish_reason is FinishReason.STOP


def test_a_grammar_that_does_not_compile_ends_its_own_sequence_only(make_manager: MakeManager) -> None:
    manager = make_manager("fake vocab=256")
    good = manager.submit(request(max_tokens=20))
    assert_failed(manager.submit(constrained(kind="lark", grammar="start: missing")), "grammar_invalid")
    assert_failed(manager.submit(constrained(kind="yaml")), "grammar_invalid")
    assert last_output(good).finish_reason is FinishReason.LENGTH
    assert last_output(manager.submit(request())).finish_reason is FinishReason.LENGTH
