"""Arguments are streamed as they are written: in every API the pieces join to those of the whole answer, also if it is
cut off."""

from __future__ import annotations

import json

import pytest

from tests.web.api.test_openai_chat import HELLO, ask
from tests.web.api.test_tools import BOTH, PARIS, TIME, WEATHER, added_up, spoken
from tests.wording import says
from webapp.chat.lenient_json import completed, read_arguments
from webapp.chat.messages import ToolCall
from webapp.chat.tool_dialects import all_dialects

LONG = "Paris, which is a long name for a city 🐦 ``` </tool_call> <tool_response>"


def in_dialect(dialect, arguments):
    return dialect.calls([ToolCall("", "get_weather", json.dumps(arguments, ensure_ascii=False))])


def calls_of(choice):
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]


@pytest.mark.parametrize("dialect", all_dialects(), ids=lambda row: row.name)
def test_arguments_are_streamed_in_pieces_that_join_to_the_whole_in_every_dialect(serve, dialect):
    client = serve(strategy=spoken(in_dialect(dialect, {"city": LONG, "unit": "C"}))).openai()
    options = {"tools": [WEATHER], "extra_body": {"tool_dialect": dialect.name}, "max_tokens": 500}
    [choice] = ask(client, **options).choices
    chunks = list(ask(client, stream=True, **options))
    content, streamed, reason = added_up(chunks)
    assert (content, reason, choice.finish_reason) == ("", "tool_calls", "tool_calls")
    assert [found[1:] for found in streamed] == calls_of(choice)
    assert json.loads(streamed[0][2]) == {"city": LONG, "unit": "C"}
    pieces = [delta.function.arguments for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    assert pieces[0] == "" and len(pieces) > 15 and all(pieces[1:])


@pytest.mark.parametrize("limit", [16, 20, 26])
def test_a_call_that_the_limit_cuts_off_is_sent_as_far_as_it_was_written(serve, limit):
    """As with OpenAI: the reason says that the arguments are incomplete."""
    client = serve(strategy=spoken(BOTH)).openai()
    options = {"tools": [WEATHER, TIME], "max_tokens": limit}
    [choice] = ask(client, **options).choices
    content, streamed, reason = added_up(ask(client, stream=True, **options))
    assert choice.finish_reason == reason == "length"
    assert (content, [found[1:] for found in streamed]) == (choice.message.content or "", calls_of(choice))
    name, arguments = calls_of(choice)[0]
    assert name == "get_weather" and '{"city":"Oslo 🐦 ```"}'.startswith(arguments)


def test_without_the_grammar_calls_are_sent_whole_and_parsed_leniently(serve):
    text = "```json\n{'name': 'get_weather', 'arguments': {'city': 'it's fine'}}\n```"
    client = serve(strategy=spoken(text)).openai()
    options = {"tools": [WEATHER], "extra_body": {"tool_decoding": "free"}}
    [choice] = ask(client, **options).choices
    assert calls_of(choice) == [("get_weather", '{"city":"it\'s fine"}')]
    assert [found[1:] for found in added_up(ask(client, stream=True, **options))[1]] == calls_of(choice)


def test_what_the_dialect_and_the_decoding_cannot_be_is_refused(server):
    body = {"messages": HELLO, "tools": [WEATHER]}
    for wrong, param in (
        ({"tool_dialect": "klingon"}, "tool_dialect"),
        ({"tool_decoding": "wild"}, "tool_decoding"),
        ({"tool_decoding": "free", "tool_choice": "required"}, "tool_choice"),
    ):
        status, answer = server.post("/v1/chat/completions", {**body, **wrong})
        assert (status, answer["error"]["param"]) == (400, param)


def test_anthropics_input_is_sent_in_pieces(serve):
    server = serve(strategy=spoken(f"Let me see.\n{BOTH}"))
    tools = [
        {"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]} for tool in (WEATHER, TIME)
    ]
    asked = {"model": "m", "max_tokens": 200, "messages": HELLO, "tools": tools}
    _, whole = server.post("/v1/messages", asked)
    events = server.events("/v1/messages", {**asked, "stream": True})
    blocks, joined = {}, {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks[event["index"]] = event["content_block"]
        elif event["type"] == "content_block_delta":
            text = event["delta"].get("partial_json") or event["delta"].get("text", "")
            joined.setdefault(event["index"], []).append(text)
    assert [blocks[index]["type"] for index in sorted(blocks)] == ["text", "tool_use", "tool_use"]
    assert len(joined[1]) > 3 and json.loads("".join(joined[1])) == whole["content"][1]["input"] == {
        "city": "Oslo 🐦 ```"
    }
    assert json.loads("".join(joined[2])) == whole["content"][2]["input"] == {}


def test_anthropics_choices_are_kept(serve):
    """One call although several are written, none if none is allowed, and invalid choices are refused."""
    server = serve(strategy=spoken(f"\n{BOTH}"))
    tools = [
        {"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]} for tool in (WEATHER, TIME)
    ]
    asked = {"model": "m", "max_tokens": 200, "messages": HELLO, "tools": tools}

    def kinds(**choice):
        status, answer = server.post("/v1/messages", {**asked, "tool_choice": choice})
        return [block["type"] for block in answer["content"]] if status == 200 else answer["error"]["message"]

    assert kinds(type="auto") == ["tool_use", "tool_use"]
    assert kinds(type="any", disable_parallel_tool_use=True) == ["tool_use"]
    assert kinds(type="none") == ["text"]
    assert says(kinds(type="always"), "reason.common.must_be_one_of", names="auto, any, tool, none")
    assert "tool_choice" in kinds(type="tool")


def test_several_answers_each_have_their_calls(serve):
    client = serve(strategy=spoken(BOTH)).openai()
    chunks = list(ask(client, tools=[WEATHER, TIME], n=2, stream=True))
    for number in (0, 1):
        mine = [chunk for chunk in chunks if chunk.choices[0].index == number]
        content, calls, reason = added_up(mine)
        assert (content, reason, [name for _, name, _ in calls]) == ("", "tool_calls", ["get_weather", "get_time"])


@pytest.mark.parametrize("limit", [14, 18, 22])
def test_anthropics_client_reads_a_cut_call_as_the_whole_answer_has_it(serve, limit):
    anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")
    text = '```json\n{"name":"get_weather","arguments":{"city":"Oslo","unit":"C"}}\n```'
    client = anthropic.Anthropic(base_url=serve(strategy=spoken(text)).url, api_key="none", max_retries=0)
    function = WEATHER["function"]
    tools = [{"name": function["name"], "description": "", "input_schema": function["parameters"]}]
    asked = {"model": "m", "max_tokens": limit, "messages": HELLO, "tools": tools}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert whole.stop_reason == streamed.stop_reason == "max_tokens"
    assert whole.content[0].input == streamed.content[0].input


def test_ollama_gives_whole_calls_or_the_text_of_a_cut_one(serve):
    server = serve(strategy=spoken(PARIS))
    asked = {"model": "m", "messages": HELLO, "tools": [WEATHER], "stream": False}
    message = server.post("/api/chat", asked)[1]["message"]
    [call] = message["tool_calls"]
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}} and call["id"]
    cut = server.post("/api/chat", {**asked, "options": {"num_predict": 14}})[1]
    assert cut["done_reason"] == "length" and not cut["message"].get("tool_calls")
    assert cut["message"]["content"].startswith('```json\n{"name":"get_weather"')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("{", {}),
        ('{"a', {}),
        ('{"a"', {}),
        ('{"a":', {}),
        ('{"a":"x', {}),
        ('{"a":"x y: {z', {}),
        ('{"a":"x"', {"a": "x"}),
        ('{"a":"x","b', {"a": "x"}),
        ('{"a":12', {}),
        ('{"a":12,', {"a": 12}),
        ('{"a":[1, 2', {"a": [1]}),
        ('{"a":[1,{"b":"c","d', {"a": [1, {"b": "c"}]}),
        ('{"a":[[],"]', {"a": [[]]}),
        ('{"a":"\\ud83d"}', {"a": "?"}),
    ],
)
def test_of_a_cut_text_what_is_complete_counts(text, found):
    assert read_arguments(text) == found


def test_every_beginning_of_an_object_can_be_completed():
    text = json.dumps(
        {"a": [1, 2.5, {"b": None, "c{": 'q"\\}'}], "d": {}, "e": True, "": [[["x"]]]}, ensure_ascii=False
    )
    for end in range(len(text) + 1):
        assert isinstance(json.loads(completed(text[:end])), dict), text[:end]
