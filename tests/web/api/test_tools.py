"""Calls and schemas over the APIs: whole and streamed are the same, calls are of known tools, and the JSON is valid."""

from __future__ import annotations

import json

import pytest

from tests.lazy_import import Lazily
from tests.web.api.api_server import ANSWER, ApiServer
from tests.web.api.test_openai_chat import HELLO, ask
from webapp.chat.messages import ToolCall
from webapp.chat.tool_dialects import G1X_JSON, RUNNER_LEGACY
from webapp.tokenizer import load_tokenizer

openai = Lazily("openai")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
PARIS = '```json\n{"name":"get_weather","arguments":{"city":"Paris"}}\n```'
OSLO = '{"name":"get_weather","arguments":{"city":"Oslo 🐦 ```"}}'
BOTH = f'```json\n[{OSLO}, {{"name":"get_time","arguments":{{}}}}]\n```'


def spoken(text):
    """The fake backend's strategy for an answer in the tokenizer's own tokens, which a grammar expects."""
    return f"fake slots=16 script={','.join(map(str, load_tokenizer(65536).encode(text)))}"


def added_up(chunks):
    """(content, [(id, name, arguments)], last reason) of a stream."""
    content, calls, reason = "", {}, None
    for chunk in chunks:
        [choice] = chunk.choices
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for delta in choice.delta.tool_calls or ():
            if delta.id:
                assert delta.index not in calls and delta.type == "function" and delta.function.name
                calls[delta.index] = [delta.id, delta.function.name, ""]
            else:
                assert delta.function.name is None
            calls[delta.index][2] += delta.function.arguments
    return content, [tuple(calls[index]) for index in sorted(calls)], reason


@pytest.mark.parametrize(
    "script, expected",
    [
        (PARIS, [("get_weather", {"city": "Paris"})]),
        (BOTH, [("get_weather", {"city": "Oslo 🐦 ```"}), ("get_time", {})]),
    ],
)
def test_a_call_is_data_and_not_text(serve, script, expected):
    client = serve(strategy=spoken(script)).openai()
    [choice] = ask(client, tools=[WEATHER, TIME]).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls = choice.message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == expected
    assert len({call.id for call in calls}) == len(calls) and all(call.type == "function" for call in calls)
    content, streamed, reason = added_up(ask(client, tools=[WEATHER, TIME], stream=True))
    assert (content, reason) == ("", "tool_calls")
    assert [(name, json.loads(arguments)) for _, name, arguments in streamed] == expected


def test_an_answer_without_a_call_is_an_answer(serve):
    client = serve("Hello there!").openai()
    [choice] = ask(client, tools=[WEATHER]).choices
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == ("Hello there!", None, "stop")
    assert added_up(ask(client, tools=[WEATHER], stream=True)) == ("Hello there!", [], "stop")


def test_tools_that_are_not_to_be_used_are_not_offered(server, client):
    without = ask(client)
    found = ask(client, tools=[WEATHER], tool_choice="none")
    assert found.choices[0].message.content == ANSWER and found.usage.prompt_tokens == without.usage.prompt_tokens


def rounds(count):
    """A question and ``count`` equal calls with equal results."""
    messages = [{"role": "user", "content": "Weather?"}]
    for number in range(count):
        call = {"id": f"c{number}", "type": "function"}
        call["function"] = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
        messages += [{"role": "assistant", "content": None, "tool_calls": [call]}]
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": "rain"}]
    return messages


def test_a_model_that_goes_round_in_circles_is_offered_no_call_unless_one_is_demanded(serve):
    client = serve(strategy=spoken(PARIS)).openai()
    for count, choice, is_call in ((1, "auto", True), (2, "auto", True), (3, "auto", False), (3, "required", True)):
        found = client.chat.completions.create(
            model="any", messages=rounds(count), tools=[WEATHER], tool_choice=choice, temperature=0
        ).choices[0]
        assert (found.finish_reason == "tool_calls") is is_call, (count, choice)
    sizes = [
        client.chat.completions.create(model="any", messages=rounds(n), max_tokens=1).usage.prompt_tokens
        for n in (1, 2, 3)
    ]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_time"}}])
def test_a_call_can_be_demanded_of_a_model_that_says_anything(serve, choice):
    """Without a script, the fake model's tokens are noise: only the constraint makes a call of them."""
    client = serve(strategy="fake slots=8").openai()
    tools = [TIME] if choice == "required" else [WEATHER, TIME]
    for seed in range(3):
        [found] = ask(client, tools=tools, tool_choice=choice, parallel_tool_calls=False, seed=seed).choices
        [call] = found.message.tool_calls
        assert (found.finish_reason, call.function.name, json.loads(call.function.arguments)) == (
            "tool_calls",
            "get_time",
            {},
        )


@pytest.mark.parametrize("effort", [None, "minimal"])
def test_an_answer_has_the_form_that_was_asked_for(serve, effort):
    client = serve(strategy="fake slots=8").openai()
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "is_big": {"type": "boolean"}},
        "required": ["colour", "is_big"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
    for seed in range(3):
        options = {"response_format": form, "seed": seed, **({"reasoning_effort": effort} if effort else {})}
        found = ask(client, **options).choices[0]
        thing = json.loads(found.message.content)
        assert thing["colour"] in ("red", "green") and isinstance(thing["is_big"], bool) and len(thing) == 2
        assert added_up(ask(client, stream=True, **options))[0] == found.message.content


CALL_LIKE = {
    "type": "object",
    "properties": {"name": {"const": "get_weather"}, "arguments": {"type": "object"}},
    "required": ["name", "arguments"],
}
CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Paris"]}}, "required": ["city"]}


def form_of(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


@pytest.mark.parametrize("dialect", (G1X_JSON, RUNNER_LEGACY), ids=lambda row: row.name)
def test_an_answer_is_a_call_or_has_the_form(serve, dialect):
    """The required answer is JSON too, and may even look like a call: only text that begins like a call is one."""
    call = dialect.calls([ToolCall("", "get_weather", '{"city": "Paris"}')])
    said = '{"name":"get_weather","arguments":{"city":"Paris"}}'
    options = {"tools": [WEATHER], "response_format": form_of(CALL_LIKE), "extra_body": {"tool_dialect": dialect.name}}
    for script, content, count in ((call, None, 1), (said, said, 0)):
        client = serve(strategy=spoken(script)).openai()
        [choice] = ask(client, **options).choices
        assert (choice.message.content, len(choice.message.tool_calls or ())) == (content, count)
        chunks = list(ask(client, stream=True, **options))
        streamed, calls, reason = added_up(chunks)
        assert (streamed or None, len(calls), reason) == (content, count, choice.finish_reason)
        assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) > 3 or count


@pytest.mark.parametrize(("choice", "kinds"), [("auto", {"form", "call"}), ("none", {"form"}), ("required", {"call"})])
def test_a_model_that_says_anything_keeps_to_call_or_form(noise, choice, kinds):
    client = noise.openai()
    found = set()
    for seed in range(12):
        options = {"tools": [TIME], "tool_choice": choice, "response_format": form_of(CITY), "seed": seed}
        message = ask(client, temperature=2, top_p=1, **options).choices[0].message
        if message.tool_calls:
            assert message.content is None and message.tool_calls[0].function.name == "get_time"
        else:
            assert json.loads(message.content)["city"] in ("Oslo", "Paris")
        found.add("call" if message.tool_calls else "form")
    assert found <= kinds and (choice == "auto" or found == kinds)


def test_calls_and_forms_go_together_in_every_api(serve):
    said = '{"city":"Oslo"}'
    server = serve(strategy=spoken(said))
    function = WEATHER["function"]
    flat = {"type": "function", **function}
    tool = {"name": function["name"], "input_schema": function["parameters"]}
    _, found = server.post(
        "/v1/responses",
        {"input": "Hi", "tools": [flat], "text": {"format": {"type": "json_schema", "name": "x", "schema": CITY}}},
    )
    assert found["output"][0]["content"][0]["text"] == said
    form = {"format": {"type": "json_schema", "schema": CITY}}
    _, found = server.post(
        "/v1/messages", {"messages": HELLO, "max_tokens": 99, "tools": [tool], "output_config": form}
    )
    assert found["content"][0]["text"] == said
    _, found = server.post("/api/chat", {"messages": HELLO, "tools": [WEATHER], "format": CITY, "stream": False})
    assert found["message"]["content"] == said


PICKED = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"grammar": 'root ::= "yes" | "no"'}, ("yes", "no")),
        ({"grammar": 'start: "yes" | "no"'}, ("yes", "no")),
        ({"guided_choice": ["left", "right"]}, ("left", "right")),
        ({"guided_regex": "[ab]{2}"}, ("aa", "ab", "ba", "bb")),
        ({"structured_outputs": {"choice": ["left", "right"]}}, ("left", "right")),
        ({"guided_json": json.dumps(PICKED)}, None),
        ({"guided_json": PICKED}, None),
        ({"json_schema": PICKED}, None),
        ({"structured_outputs": {"json": PICKED, "regex": None}}, None),
        ({"response_format": {"type": "json_object", "schema": PICKED}}, None),
        ({"response_format": {"type": "json_schema", "schema": PICKED}}, None),
    ],
    ids=str,
)
def test_forms_are_kept_in_everybodys_words(noise, asked, allowed):
    for path, body in (("chat/completions", {"messages": HELLO}), ("completions", {"prompt": "Hi"})):
        if "response_format" in asked and path == "completions":
            continue
        status, found = noise.post(f"/v1/{path}", {**body, **asked, "max_tokens": 200, "temperature": 1})
        assert status == 200, found
        [choice] = found["choices"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        assert text in allowed if allowed else json.loads(text)["ok"] in (True, False)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Its model writes random tokens."""
    server = ApiServer(tmp_path_factory.mktemp("noise"), "fake slots=8")
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("asked", "code", "param"),
    [
        ({"guided_choice": ["a"], "guided_regex": "b"}, "invalid_parameter", "guided_choice"),
        ({"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}, "invalid_parameter", "grammar"),
        ({"guided_json": "{"}, "invalid_parameter", "guided_json"),
        ({"guided_choice": []}, "grammar_invalid", None),
        ({"guided_regex": "(?=a)"}, "grammar_invalid", None),
        ({"grammar": "root ::= ("}, "grammar_invalid", None),
        ({"grammar": 'root ::= "a"', "tools": [TIME]}, "grammar_invalid", None),
    ],
    ids=str,
)
def test_a_form_that_cannot_be_kept_is_refused(server, asked, code, param):
    status, found = server.post("/v1/chat/completions", {"messages": HELLO, **asked})
    assert (status, found["error"]["code"], found["error"]["param"]) == (400, code, param)


LOOKAHEAD = r"^(?!\.)(?!.*\.\.)[A-Za-z]+@([a-z]+\.)+[a-z]{2,}$"  # Zod 4's pattern for e-mail addresses
ODD = {
    "lookahead": {"type": "string", "format": "email", "pattern": LOOKAHEAD},
    "back-reference": {"type": "string", "pattern": r"(a)\1"},
    "no pattern at all": {"type": "string", "pattern": "("},
    "huge pattern": {"type": "string", "pattern": "^.{1,100000}$"},
    "draft 4": {"type": "integer", "minimum": 0, "maximum": 9, "exclusiveMinimum": True},
    "dangling reference": {"$ref": "#/$defs/Nope"},
    "remote reference": {"$ref": "https://example.com/s.json"},
    "Gemini": {"type": "STRING", "description": None},
    "Python": {"type": "dict"},
    "any": {"type": "any"},
    "OpenAPI": {"type": "string", "nullable": True},
    "no values": {"type": "string", "enum": []},
    "3,000 values": {"type": "string", "enum": [f"entity.{number}" for number in range(3000)]},
    "a tuple": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]},
    "many items": {"type": "array", "items": {"type": "string"}, "maxItems": 10**9},
    "long": {"type": "string", "minLength": 5000},
    "no schema": "string",
    "null properties": {"type": "object", "properties": None, "required": None},
    "patterns of names": {"type": "object", "patternProperties": {"^(?!x)": {}}},
}


@pytest.mark.parametrize("part", ODD.values(), ids=ODD)
def test_an_odd_parameter_never_costs_the_request(noise, part):
    """Whatever is removed from the field, the call is still made and contains it."""
    parameters = {"type": "object", "properties": {"a": part, "b": {"enum": ["x"]}}, "required": ["a", "b"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    asked = {"messages": HELLO, "tools": [tool], "tool_choice": "required", "max_tokens": 300, "temperature": 0}
    status, found = noise.post("/v1/chat/completions", asked)
    assert status == 200, found
    [choice] = found["choices"]
    if choice["finish_reason"] == "tool_calls":
        arguments = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
        assert arguments.keys() == {"a", "b"} and arguments["b"] == "x"


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        False,
        "{}",
        {"type": "string"},
        {"type": "OBJECT", "required": None},
        {"properties": None},
        {"$ref": "#/none"},
    ],
    ids=str,
)
def test_odd_parameters_never_cost_the_request(server, parameters):
    tool = {"type": "function", "function": {"name": "f", "description": None, "parameters": parameters}}
    assert server.post("/v1/chat/completions", {"messages": HELLO, "tools": [tool]})[0] == 200


@pytest.mark.parametrize("properties", [{"a": ODD["lookahead"]}, {f"p{n}": {"type": "null"} for n in range(900)}])
def test_only_strict_tools_are_refused_for_what_cannot_be_enforced(client, properties):
    parameters = {"type": "object", "properties": properties}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, tools=[tool])
    assert error.value.param == "tools[0].function.parameters"
    del tool["function"]["strict"]
    assert ask(client, tools=[tool]).choices


@pytest.mark.parametrize("dialect", (G1X_JSON, RUNNER_LEGACY), ids=lambda row: row.name)
def test_names_of_programs_are_kept(serve, dialect):
    name = "mcp.server/get-weather:a@b" + "x" * 150
    tool = {"type": "function", "function": {**WEATHER["function"], "name": name}}
    script = dialect.calls([ToolCall("", name, '{"city": "Paris"}')])
    client = serve(strategy=spoken(script)).openai()
    [call] = ask(client, tools=[tool], extra_body={"tool_dialect": dialect.name}).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (name, {"city": "Paris"})


def test_any_object_will_do(serve):
    client = serve('{"a": [1, 2]}').openai()
    assert ask(client, response_format={"type": "json_object"}).choices[0].message.content == '{"a": [1, 2]}'
    assert ask(client, response_format={"type": "text"}).choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "options, param",
    [
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "has space"}}]}, "tools[0]"),
        (
            {"tools": [WEATHER], "response_format": {"type": "json_object"}, "extra_body": {"tool_decoding": "free"}},
            "response_format",
        ),
        ({"tools": [WEATHER], "response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_what_cannot_be_demanded_is_refused(client, options, param):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, **options)
    assert error.value.param == param


def test_a_schema_beyond_bounds_is_refused(client):
    schema = {"enum": [str(number) for number in range(10_000)]}
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert error.value.code == "grammar_invalid"


def test_only_strict_refuses_a_schema_that_no_grammar_can_express(serve):
    client = openai.OpenAI(base_url=f"{serve(strategy=spoken('[1,2]')).url}/v1", api_key="none", max_retries=0)
    described = {"name": "x", "schema": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}}
    found = ask(client, response_format={"type": "json_schema", "json_schema": described})
    assert found.choices[0].message.content == "[1,2]"
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        ask(client, response_format={"type": "json_schema", "json_schema": {**described, "strict": True}})


def test_anthropics_client_gets_tool_use(serve):
    anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")
    client = anthropic.Anthropic(base_url=serve(strategy=spoken(PARIS)).url, api_key="none", max_retries=0)
    function = WEATHER["function"]
    tool = {"name": function["name"], "description": "", "input_schema": function["parameters"]}
    asked = {"model": "m", "max_tokens": 200, "messages": HELLO, "tools": [tool]}
    found = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for message in (found, streamed):
        [block] = message.content
        assert (message.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "get_weather")
        assert block.input == {"city": "Paris"}


def test_ollamas_client_gets_tool_calls(serve):
    ollama = pytest.importorskip("ollama", reason="the ollama client is not installed")
    client = ollama.Client(host=serve(strategy=spoken(PARIS)).url)
    [call] = client.chat(model="m", messages=HELLO, tools=[WEATHER]).message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"})
    lines = list(client.chat(model="m", messages=HELLO, tools=[WEATHER], stream=True))
    streamed = [call for line in lines for call in line.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in streamed] == [("get_weather", {"city": "Paris"})]
