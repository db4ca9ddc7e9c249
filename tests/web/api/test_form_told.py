"""The schema of a required answer is in the prompt, once, in every dialect."""

from __future__ import annotations

import json

import pytest

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
FORM = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
HELLO = [{"role": "user", "content": "Hello"}]


def prompt(server, messages=HELLO, **body):
    status, found = server.post("/apply-template", {"messages": messages, **body})
    assert status == 200, found
    return found["prompt"]


def test_a_models_prompt_contains_the_schema(server):
    assert prompt(server, response_format=FORM) == (
        f"System: Answer in JSON that fits this schema: {TEXT}\n\nUser: Hello\n\nAssistant:"
    )
    bare = prompt(server)
    for same in ({"json_schema": SCHEMA}, {"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}):
        assert prompt(server, **same) == prompt(server, response_format=FORM)
    for other in ({"response_format": {"type": "json_object"}}, {"guided_regex": "a+"}):
        assert prompt(server, **other) == bare


def test_below_the_programs_own_system_prompt(server):
    told = prompt(server, [{"role": "system", "content": "Be kind."}, *HELLO], response_format=FORM)
    assert told.startswith(f"System: Be kind.\nAnswer in JSON that fits this schema: {TEXT}\n\nUser: Hello")


@pytest.mark.parametrize("template, before", [("function_calling", "### System\n"), ("bot", "System✿"), ("raven", "")])
def test_each_format_has_it_in_its_system_prompt(server, template, before):
    assert f"{before}Answer in JSON that fits this schema: {TEXT}" in prompt(
        server, response_format=FORM, template=template
    )


def test_with_tools_it_is_for_an_answer_without_calls(server):
    told = prompt(server, response_format=FORM, tools=[TOOL])
    assert f"When you call no tool, answer in JSON that fits this schema: {TEXT}" in told and "look" in told
    assert "schema:" not in prompt(server, response_format=FORM, tools=[TOOL], tool_choice="required")
    without = prompt(server, response_format=FORM, tools=[TOOL], tool_choice="none")
    assert without == prompt(server, response_format=FORM)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": f"Return JSON like this: {TEXT}"},
        {"role": "user", "content": 'A json object with "city" and "days", please.'},
    ],
)
def test_a_program_that_explains_the_schema_does_not_get_it_again(server, message):
    assert "fits this schema" not in prompt(server, [message, *HELLO], response_format=FORM)


def test_an_explanation_without_json_or_all_properties_does_not_replace_the_schema(server):
    for words in ("the city and days", "JSON with a city", "JSON"):
        told = prompt(server, [{"role": "user", "content": words}], response_format=FORM)
        assert told.count("fits this schema") == 1


def test_a_schema_longer_than_a_prompt_should_bear_is_left_out(server):
    long = {
        "json_schema": {"schema": {"enum": ["x" * 20 + str(number) for number in range(400)]}},
        "type": "json_schema",
    }
    assert prompt(server, response_format=long) == prompt(server)


def test_the_other_dialects_give_the_same_result(server):
    counted = server.post("/v1/messages/count_tokens", {"messages": HELLO})[1]["input_tokens"]
    asked = {"messages": HELLO, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    longer = server.post("/v1/messages/count_tokens", asked)[1]["input_tokens"]
    responses = {"input": "Hello", "text": {"format": {"type": "json_schema", "name": "trip", "schema": SCHEMA}}}
    assert longer > counted + 20
    assert server.post("/v1/responses/input_tokens", responses)[1]["input_tokens"] == longer
