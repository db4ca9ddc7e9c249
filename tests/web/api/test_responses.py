"""The contract of responses, with the official client."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.lazy_import import Lazily
from tests.web.api.api_server import ANSWER, MODEL, ApiServer
from tests.web.api.test_tools import BOTH, PARIS, TIME, WEATHER, spoken
from tests.web.chat.running_roost import fake_strategy

openai = Lazily("openai")

RESPONSES = "/v1/responses"
FLAT = [{"type": "function", **tool["function"]} for tool in (WEATHER, TIME)]
THOUGHT = ">\nThe user greets.\n</think>\nHello!"
HELLO = [{"role": "user", "content": "Hello"}]
LOGPROBS = "message.output_text.logprobs"


def ask(client, given="Hello", **options):
    return client.responses.create(model="gpt-4o", input=given, **options)


def whole_of(events):
    """The sum of a stream's deltas: kind, text or arguments of each item."""
    items = []
    for event in events:
        if event["type"] == "response.output_item.added":
            items.append([event["item"]["type"], event["item"].get("name", ""), ""])
        elif event["type"].endswith(".delta"):
            items[event["output_index"]][2] += event["delta"]
    return items


def items_of(response):
    found = []
    for item in response["output"]:
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        found.append([item["type"], item.get("name", ""), text])
    return found


def streamed(server, body):
    """Its events: sequence numbers increase, end events repeat the content before them, and the last one contains
    everything."""
    events = server.events(RESPONSES, {**body, "stream": True})
    assert events.pop() == "[DONE]"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    final = events[-1]["response"]
    assert whole_of(events) == items_of(final)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"] and len({item["id"] for item in done}) == len(done)
    for event in events:
        if event["type"].endswith((".delta", "_text.done", "arguments.done", ".part.added", ".part.done")):
            assert event["item_id"] == done[event["output_index"]]["id"]
    return events


def test_an_answer_has_every_field(client):
    found = ask(
        client, instructions="Be kind.", metadata={"a": "b"}, store=True, include=["reasoning.encrypted_content"]
    )
    assert found.id.startswith("resp_") and (found.object, found.status, found.model) == (
        "response",
        "completed",
        MODEL,
    )
    [item] = found.output
    assert item.id.startswith("msg_") and (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert found.output_text == ANSWER and item.content[0].annotations == []
    usage = found.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens == len(ANSWER.encode()) + 1
    assert (found.instructions, found.metadata, found.store) == ("Be kind.", {"a": "b"}, True)
    assert found.temperature is not None and found.top_p is not None and found.error is None


def test_a_length_limit_is_said(server, client):
    found = ask(client, max_output_tokens=5)
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (found.output_text, found.output[0].status, found.usage.output_tokens) == ("Birds", "incomplete", 5)
    events = streamed(server, {"input": "Hello", "max_output_tokens": 5})
    assert events[-1]["type"] == "response.incomplete"


def test_the_events_of_an_answer_come_in_their_order(serve):
    server = serve(THOUGHT)
    body = {"input": "Hello", "reasoning": {"effort": "high"}}
    events = streamed(server, body)
    kinds = [event["type"].removeprefix("response.") for event in events]
    once = [kind for place, kind in enumerate(kinds) if not place or kinds[place - 1] != kind]
    assert once == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert items_of(events[-1]["response"]) == [["reasoning", "", "The user greets."], ["message", "", "Hello!"]]
    status, whole = server.post(RESPONSES, body)
    assert status == 200 and items_of(whole) == items_of(events[-1]["response"])
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 15


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (PARIS, [["get_weather", {"city": "Paris"}]]),
        (BOTH, [["get_weather", {"city": "Oslo 🐦 ```"}], ["get_time", {}]]),
    ],
)
def test_calls_are_items_whole_and_streamed(serve, script, expected):
    server = serve(strategy=spoken(script))
    found = ask(server.openai(), tools=FLAT)
    assert [[item.name, json.loads(item.arguments)] for item in found.output] == expected
    assert all(item.id.startswith("fc_") and item.call_id.startswith("call_") for item in found.output)
    assert [tool.name for tool in found.tools] == ["get_weather", "get_time"] and found.status == "completed"
    events = streamed(server, {"input": "Hello", "tools": FLAT})
    assert [[name, json.loads(text)] for _, name, text in whole_of(events)] == expected


def test_the_clients_own_accumulation_reads_the_stream(serve):
    client = serve(strategy=spoken(f"Let me see.\n{PARIS}")).openai()
    with client.responses.stream(model="m", input="Weather?", tools=FLAT) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.delta") > 3 and kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["message", "function_call"]
    assert final.output_text == "Let me see."


def test_a_turn_continues_with_the_items_of_the_one_before(serve):
    """As agents do: the output is sent back with results; every item has the same place as in chat completions."""
    server = serve(strategy=spoken(f"Let me see.\n{BOTH}"))
    client = server.openai()
    first = ask(client, HELLO, tools=FLAT)
    calls = [item for item in first.output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "21"} for call in calls]
    given = [*HELLO, *(item.to_dict() for item in first.output), *results]
    counted = client.responses.input_tokens.count(model="m", input=given, tools=FLAT).input_tokens
    replayed = {
        "role": "assistant",
        "content": first.output_text,
        "tool_calls": [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ],
    }
    answered = [{"role": "tool", "tool_call_id": call.call_id, "content": "21"} for call in calls]
    chat = client.chat.completions.create(
        model="m", messages=[*HELLO, replayed, *answered], tools=[WEATHER, TIME], max_tokens=1
    )
    assert counted == ask(client, given, tools=FLAT, max_output_tokens=1).usage.input_tokens
    assert counted == chat.usage.prompt_tokens


def test_earlier_thinking_is_not_read_again(server):
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hi.", "annotations": []}]}  # fmt: skip
    bodies = [{"input": [*HELLO, *items, *HELLO]} for items in ([thought, said], [said])]
    counts = [server.post(f"{RESPONSES}/input_tokens", body)[1]["input_tokens"] for body in bodies]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_time", "get_weather"}),
        ({"type": "function", "name": "get_time"}, {"get_time"}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_time"}]},
            {"get_time"},
        ),
    ],
)
def test_a_call_can_be_demanded_of_a_model_that_says_anything(serve, choice, names):
    client = serve(strategy="fake slots=8").openai()
    found = ask(client, tools=FLAT[1:] if choice == "required" else FLAT, tool_choice=choice, parallel_tool_calls=False)
    [call] = found.output
    assert call.type == "function_call" and call.name in names


def test_allowed_tools_leave_the_others_out(server, client):
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}
    found = ask(client, tools=FLAT, tool_choice=allowed)
    assert [tool.name for tool in found.tools] == ["get_time"]
    assert found.usage.input_tokens == ask(client, tools=FLAT[1:]).usage.input_tokens
    chat = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_time"}}]},
    }
    body = {"messages": HELLO, "tools": [WEATHER, TIME], "tool_choice": chat}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200 and answer["usage"]["prompt_tokens"] == found.usage.input_tokens


def test_a_tool_that_is_no_function_is_left_out(client):
    found = ask(client, tools=[{"type": "web_search"}, *FLAT])
    assert [tool.name for tool in found.tools] == ["get_weather", "get_time"]
    told = client.responses.with_raw_response.create(
        model="any",
        input="Hello",
        tools=[{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}],
    )
    assert told.headers["x-roost-tools-left-out"] == "web_search, code_interpreter"
    for choice in ("required", {"type": "web_search"}):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, tools=[{"type": "web_search"}], tool_choice=choice)
        assert error.value.param == "tool_choice"


@pytest.mark.parametrize("path", ["/v1/responses/compact", "/v1/responses/resp_1", "/v1/conversations"])
def test_an_address_that_openai_has_and_roost_has_not_is_not_found(server, path):
    assert server.post(path, {})[0] == (405 if "resp_" in path else 404)


def test_the_answer_has_the_form_that_was_asked_for(serve):
    schema = {"type": "object", "properties": {"big": {"type": "boolean"}}, "required": ["big"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "name": "size", "schema": schema, "strict": True}
    found = ask(serve(strategy="fake slots=8").openai(), text={"format": form})
    assert json.loads(found.output_text)["big"] in (True, False) and found.text.format.name == "size"


def test_logprobs_belong_to_the_text(server, client):
    options = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 5}
    [part] = ask(client, **options).output[0].content
    assert [one.token for one in part.logprobs] == list("Birds")
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)
    events = streamed(server, {"input": "Hello", **options})
    told = [one for event in events if event["type"].endswith("text.delta") for one in event["logprobs"]]
    assert told == events[-1]["response"]["output"][0]["content"][0]["logprobs"]


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"input": ""}, "invalid_parameter", "input"),
        ({"input": []}, "invalid_parameter", "input"),
        ({"input": None}, "invalid_parameter", "input"),
        ({"input": [{"type": "poem"}]}, "invalid_parameter", "input[0].type"),
        ({"input": [{"role": "user"}]}, "invalid_parameter", "input[0].content"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "invalid_parameter", "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, "invalid_parameter",
         "input[0].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "unsupported_parameter", "input[0].content[0]"),
        ({"input": [{"type": "item_reference"}]}, "invalid_parameter", "input[0].id"),
        ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        ({"max_output_tokens": 0}, "invalid_parameter", "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "invalid_parameter",
         "response_format.json_schema.schema"),
        ({"tools": FLAT, "tool_choice": {"type": "function", "name": "nobody"}}, "invalid_parameter", "tool_choice"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_named(server, changes, code, param):
    status, found = server.post(RESPONSES, {"input": "Hello", **changes})
    assert (status, found["error"]["code"], found["error"]["param"]) == (400, code, param)


def test_an_answer_is_continued_by_its_id_and_prefills_only_new_tokens(serve):
    """With its sampled ids: the snapshot at its end fits, so no turn prefills an earlier one again."""
    server = serve("Yes.", options={"repeat": 1})
    client, last, read = server.openai(), None, []
    for turn in range(6):
        before = server.manager.counters().get("prefilled_tokens_total", 0)
        last = ask(client, f"Question {turn}", previous_response_id=last and last.id)
        read.append(server.manager.counters()["prefilled_tokens_total"] - before)
    assert last.usage.input_tokens > 60 > 20 > max(read[1:])
    assert last.usage.input_tokens_details.cached_tokens > last.usage.input_tokens - 20


def test_instructions_count_for_one_answer(client):
    first = ask(client, "Hello", instructions="Be kind. " * 20)
    counted = [
        client.responses.input_tokens.count(model="m", input="And?", previous_response_id=first.id, **more).input_tokens
        for more in ({}, {"instructions": "Be kind. " * 20})
    ]
    assert counted[1] > counted[0] + 40


@pytest.mark.parametrize("is_stream", [False, True])
def test_items_are_referred_to_by_their_ids(serve, is_stream):
    """As Vercel's library does from the second turn."""
    server = serve(strategy=spoken(f"Let me see.\n{PARIS}"))
    body = {"input": "Weather?", "tools": FLAT}
    first = streamed(server, body)[-1]["response"] if is_stream else server.post(RESPONSES, body)[1]
    call = first["output"][1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "21"}
    question = {"role": "user", "content": "Weather?"}
    references = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    counts = [
        server.post(f"{RESPONSES}/input_tokens", {"input": [question, *items, result], "tools": FLAT})[1]
        for items in (first["output"], references)
    ]
    assert counts[0] == counts[1] and counts[0]["input_tokens"] > 40
    assert server.get(f"{RESPONSES}/{first['id']}")[1] == first


def test_an_answer_that_is_not_kept_is_named(server, client):
    unkept = ask(client, store=False)
    assert unkept.store is False
    forgotten = ask(client)
    client.responses.delete(forgotten.id)
    for gone in (unkept, forgotten):
        with pytest.raises(openai.NotFoundError) as error:
            ask(client, previous_response_id=gone.id)
        assert (error.value.code, error.value.param) == ("answer_not_found", "previous_response_id")
        assert server.get(f"{RESPONSES}/{gone.id}")[0] == 404
        reference = {"input": [*HELLO, {"type": "item_reference", "id": gone.output[0].id}]}
        status, found = server.post(RESPONSES, reference)
        assert (status, found["error"]["param"]) == (404, "input[1].id")


def test_a_conversation_continues_after_a_restart_and_prefills_only_new_tokens(serve, tmp_path):
    strategy, places = fake_strategy("Yes.", slots=16, repeat=1), {"data_dir": tmp_path / "same"}
    first = ApiServer(strategy=strategy, **places)
    try:
        last = ask(first.openai(), "A first question that is somewhat longer " * 3)
        last = ask(first.openai(), "And?", previous_response_id=last.id)
    finally:
        first.stop()
    second = ApiServer(strategy=strategy, **places)
    try:
        client = second.openai()
        assert client.responses.retrieve(last.id) == last
        found = ask(client, "Then?", previous_response_id=last.id)
        assert second.manager.counters()["prefilled_tokens_total"] < 20 < found.usage.input_tokens
        items = client.responses.input_items.list(found.id, order="asc", limit=4)
        assert [(item.type, item.role) for item in items.data] == 2 * [("message", "user"), ("message", "assistant")]
        assert next(item.content[0].text for item in client.responses.input_items.list(found.id)) == "Then?"
        assert len({item.id for item in client.responses.input_items.list(found.id, limit=2)}) == 5
    finally:
        second.stop()


def test_a_stored_answer_sends_its_events_again(serve):
    """Thinking, content and calls: the same items with the same ids as in the original stream."""
    server = serve(strategy=spoken(f">\nI look.\n</think>\nLet me see.\n{PARIS}"))
    body = {"input": "Weather?", "tools": FLAT, "reasoning": {"effort": "high"}, "include": [LOGPROBS]}
    first = streamed(server, body)
    kept = f"{RESPONSES}/{first[-1]['response']['id']}"
    assert {item["type"] for item in first[-1]["response"]["output"]} == {"reasoning", "message", "function_call"}

    def again(query=""):
        with urllib.request.urlopen(f"{server.url}{kept}?stream=true{query}", timeout=60) as answer:
            text = answer.read().decode()
        return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")], text

    told, text = again()
    assert text.endswith("data: [DONE]\n\n") and f"event: {told[0]['type']}\n" in text
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert whole_of(told) == whole_of(first) and told[-1] == {**first[-1], "sequence_number": len(told) - 1}
    assert told[0]["response"]["status"] == "in_progress" and told[0]["response"]["output"] == []
    kinds = [[event["type"] for event in events if "delta" not in event["type"]] for events in (first, told)]
    assert kinds[0] == kinds[1]
    assert again("&starting_after=4")[0] == told[5:] and server.get(f"{kept}?stream=false")[1] == first[-1]["response"]
    with server.openai().responses.retrieve(kept.rpartition("/")[2], stream=True) as events:
        assert [event.type for event in events] == [event["type"] for event in told]
    status, found = server.get(f"{kept}?stream=perhaps")
    assert (status, found["error"]["param"]) == (400, "stream")
    assert server.get(f"{RESPONSES}/resp_none?stream=true")[0] == 404


def test_an_answer_that_was_cut_off_is_sent_again_as_such(server):
    body = {"input": "Hello", "max_output_tokens": 5}
    kept = server.post(RESPONSES, body)[1]["id"]
    with server.openai().responses.retrieve(kept, stream=True) as events:
        last = list(events)[-1]
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")


def test_an_answer_continues_from_a_state_and_so_do_those_after_it(serve):
    server = serve("Yes.", options={"repeat": 1})
    client = server.openai()

    def asked(text, **more):
        before = server.manager.counters().get("prefilled_tokens_total", 0)
        status, found = server.post(RESPONSES, {"input": text, **more})
        assert status == 200, found
        return found, server.manager.counters()["prefilled_tokens_total"] - before

    chat = {"messages": [{"role": "user", "content": "A first question of some length " * 4}], "return_state": True}
    state_id = server.post("/v1/chat/completions", chat)[1]["choices"][0]["state_id"]
    found, read = asked("And?", state_id=state_id, return_state=True)
    assert read < 20 < found["usage"]["input_tokens"]
    counted = server.post(f"{RESPONSES}/input_tokens", {"input": "And?", "state_id": state_id})[1]["input_tokens"]
    assert counted == found["usage"]["input_tokens"]
    shown = server.get(f"/v1/states/{found['state_id']}")[1]
    assert shown["parent_id"] == state_id and shown["tokens"] > found["usage"]["input_tokens"]
    by_state, read = asked("Then?", state_id=found["state_id"])
    assert read < 20 and "state_id" not in by_state
    by_answer, read = asked("Then?", previous_response_id=found["id"])
    assert read < 20 and by_answer["usage"]["input_tokens"] == by_state["usage"]["input_tokens"]
    events = streamed(server, {"input": "Then?", "previous_response_id": by_answer["id"], "return_state": True})
    final = events[-1]["response"]
    assert final["state_id"].startswith("st_") and "state_id" not in events[0]["response"]
    assert server.get(f"{RESPONSES}/{final['id']}")[1] == final
    assert final["usage"]["input_tokens"] > by_answer["usage"]["input_tokens"]
    assert client.responses.retrieve(final["id"]).usage.input_tokens == final["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"state_id": "st_none"}, 404, "state_id_not_found"),
        ({"state_id": "STATE", "state": "x"}, 400, "invalid_parameter"),
        ({"state_id": "STATE", "previous_response_id": "ANSWER"}, 400, "invalid_parameter"),
    ],
    ids=str,
)
def test_a_state_that_cannot_be_gone_on_from_is_named(server, changes, status, code):
    known = server.post(RESPONSES, {"input": "Hello", "return_state": True})[1]
    ids = {"STATE": known["state_id"], "ANSWER": known["id"]}
    changes = {name: ids.get(value, value) for name, value in changes.items()}
    found, told = server.post(RESPONSES, {"input": "x", **changes})
    assert (found, told["error"]["code"], told["error"]["param"]) == (status, code, "state_id")


@pytest.mark.parametrize("query", ["order=up", "limit=0", "limit=200", "limit=x"])
def test_a_list_of_input_items_is_asked_for_as_at_openai(server, client, query):
    found = ask(client)
    status, told = server.get(f"{RESPONSES}/{found.id}/input_items?{query}")
    assert (status, told["error"]["code"], told["error"]["param"]) == (400, "invalid_parameter", query.split("=")[0])


def test_nothing_is_kept_where_the_setting_says_so(serve):
    found = ask(serve(response_days=0).openai())
    assert found.store is False and found.output_text == ANSWER


def test_a_generation_that_breaks_is_an_error_and_a_failed_response(serve):
    server = serve(options={"fail_at": 30})
    assert server.post(RESPONSES, {"input": "Hello"})[0] == 500
    error, failed = server.events(RESPONSES, {"input": "Hello", "stream": True})[-2:]
    assert (error["type"], error["code"]) == ("error", "internal_error")
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert failed["sequence_number"] == error["sequence_number"] + 1
