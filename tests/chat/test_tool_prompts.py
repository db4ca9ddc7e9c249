"""The exact prompts with tools, in each dialect."""

from __future__ import annotations

from webapp.chat.formats import G1X, WORLD
from webapp.chat.messages import Message, Role, ToolCall
from webapp.chat.prompts import render
from webapp.chat.tool_dialects import G1X_COMPACT, G1X_JSON, HERMES, RUNNER_LEGACY, OfferedTools

WEATHER = {
    "name": "get_current_weather",
    "description": "Get the current weather in a given location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["location"],
    },
}
CALL = ToolCall("call_1", "get_current_weather", '{"location": "Paris", "unit": "celsius"}')
ASKED = Message(Role.USER, "What's the weather like in Paris?")
CALLED = Message(Role.ASSISTANT, "", tool_calls=(CALL,))
RESULT = Message(Role.TOOL, '{"location": "Paris", "temperature": "22"}', tool_call_id="call_1")


def test_the_compact_form_is_that_of_the_official_templates() -> None:
    rendered = render(G1X, [ASKED, CALLED, RESULT], tools=OfferedTools(G1X_COMPACT, (WEATHER,)))
    assert rendered.text == (
        "System: Tools:\n"
        '- get_current_weather(location: string, unit?: "celsius" | "fahrenheit"): '
        "Get the current weather in a given location\n"
        "Return only a JSON function call.\n\n"
        "User: What's the weather like in Paris?\n\n"
        'Assistant: ```json\n{"name":"get_current_weather","arguments":{"location":"Paris","unit":"celsius"}}\n```\n\n'
        'User: Function output:\n{"location": "Paris", "temperature": "22"}\n\n'
        "Assistant:"
    )
    assert rendered.tools is not None and rendered.tools.names == ("get_current_weather",)


def test_the_legacy_form_is_what_runner_writes_for_mobius_models() -> None:
    text = render(WORLD, [ASKED, CALLED, RESULT], tools=OfferedTools(RUNNER_LEGACY, (WEATHER,))).text
    assert text.startswith(
        "System: You are a helpful assistant with access to the following functions. Use them if required -[\n  {\n"
        '    "name": "get_current_weather",\n'
    )
    assert text.endswith(
        'Assistant: get_current_weather\n```python\ntool_call("location"= "Paris", "unit"= "celsius")\n```\n\n'
        'Observation: {"location": "Paris", "temperature": "22"}\n\n'
        "Assistant:"
    )


def test_results_that_follow_each_other_are_one_message() -> None:
    results = [Message(Role.TOOL, "1"), Message(Role.TOOL, "two")]
    plain = render(G1X, [ASKED, CALLED, *results], tools=OfferedTools(G1X_JSON, (WEATHER,))).text
    assert plain.endswith('User: Function output:\n[1,"two"]\n\nAssistant:')
    hermes = render(G1X, [ASKED, CALLED, *results], tools=OfferedTools(HERMES, (WEATHER,))).text
    assert hermes.endswith("<tool_response>\n1\n</tool_response>\n<tool_response>\ntwo\n</tool_response>\n\nAssistant:")


def test_the_offer_is_below_the_system_prompt_wherever_that_is_given() -> None:
    tools = OfferedTools(G1X_JSON, (WEATHER,))
    given = render(G1X, [ASKED], system="Be brief.", tools=tools).text
    first = render(G1X, [Message(Role.SYSTEM, "Be brief."), ASKED], tools=tools).text
    assert given == first
    assert given.startswith('System: Be brief.\nTools:\n[{"name":"get_current_weather"')


def test_calls_in_the_history_are_written_when_tools_are_off_too() -> None:
    rendered = render(G1X, [ASKED, CALLED, RESULT])
    assert "Tools:" not in rendered.text and '{"name":"get_current_weather"' in rendered.text
    assert rendered.tools is None


def test_sampled_ids_of_a_call_go_back_as_they_were() -> None:
    sampled = Message(Role.ASSISTANT, "", tool_calls=(CALL,), token_ids=(5, 6, 7))
    pieces = render(G1X, [ASKED, sampled, RESULT], tools=OfferedTools(G1X_JSON, (WEATHER,))).pieces
    assert (5, 6, 7) in [piece.token_ids for piece in pieces]
