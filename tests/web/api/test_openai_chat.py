"""The contract of chat completions, point by point, with the official client."""

from __future__ import annotations

import threading

import pytest

from tests.lazy_import import Lazily
from tests.web.api.api_server import ANSWER, MODEL
from webapp.manager import library
from webapp.manager.library import walk_models

openai = Lazily("openai")

HELLO = [{"role": "user", "content": "Hello"}]


def ask(client, messages=HELLO, **options):
    return client.chat.completions.create(model=options.pop("model", "gpt-4o"), messages=messages, **options)


def streamed(client, **options):
    return list(ask(client, stream=True, **options))


def text_of(chunks, index=0):
    pieces = [c for chunk in chunks for c in chunk.choices if c.index == index]
    return "".join(c.delta.content or "" for c in pieces)


def test_an_answer_has_every_field(client):
    found = ask(client)
    assert found.id.startswith("chatcmpl-") and found.object == "chat.completion"
    assert isinstance(found.created, int) and found.model == MODEL
    assert found.system_fingerprint.startswith("fp_")
    [choice] = found.choices
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert (choice.message.role, choice.message.content) == ("assistant", ANSWER)
    written = choice.message.to_dict()
    assert (written["refusal"], written["annotations"]) == (None, [])
    usage = found.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens == len(ANSWER.encode()) + 1  # plus the end of the text


def test_ids_differ(client):
    assert ask(client).id != ask(client).id


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(client):
    chunks = streamed(client)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.role for c in chunks[1:]] == [None] * (len(chunks) - 1)
    assert [c.choices[0].finish_reason for c in chunks[-2:]] == [None, "stop"]
    assert text_of(chunks) == ANSWER
    assert all("\ufffd" not in (c.choices[0].delta.content or "") for c in chunks)


def test_the_stream_ends_with_done(server):
    events = server.events("/v1/chat/completions", {"messages": HELLO, "stream": True})
    assert events[-1] == "[DONE]" and "usage" not in events[0]


def test_usage_is_sent_in_a_last_chunk_only_if_requested(client):
    chunks = streamed(client, stream_options={"include_usage": True})
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(ANSWER.encode()) + 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None and chunk.choices for chunk in streamed(client))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_length_limit_is_said(client, name):
    found = ask(client, **{name: 5})
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("Birds", "length")
    assert found.usage.completion_tokens == 5
    chunks = streamed(client, **{name: 5})
    assert chunks[-1].choices[0].finish_reason == "length" and text_of(chunks) == "Birds"


def test_a_character_cut_by_the_limit_is_left_out(client):
    assert ask(client, max_tokens=8).choices[0].message.content == "Birds"  # two of the bird's four bytes


@pytest.mark.parametrize(
    "stop, expected",
    [
        ("wires", "Birds 🐦 sit on "),
        (["nowhere", "sit on"], "Birds 🐦 "),
        (["🐦"], "Birds "),
        ("鸟儿", "Birds 🐦 sit on wires.\n\n"),
        (["Birds"], ""),
        (["not there"], ANSWER),
        (["wires.\n\n鸟儿很安全。!"], ANSWER),  # nearly all of it is returned
    ],
)
def test_stops_end_the_text_and_never_leak(client, stop, expected):
    found = ask(client, stop=stop)
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == (expected, "stop")
    assert text_of(streamed(client, stop=stop)) == expected


def test_several_answers_have_their_own_index(client):
    found = ask(client, n=3, max_tokens=5)
    assert [c.index for c in found.choices] == [0, 1, 2]
    assert {c.message.content for c in found.choices} == {"Birds"}
    assert found.usage.completion_tokens == 15
    chunks = streamed(client, n=3, max_tokens=5)
    assert [text_of(chunks, index) for index in range(3)] == ["Birds"] * 3
    assert sorted(c.index for chunk in chunks for c in chunk.choices if c.finish_reason) == [0, 1, 2]


def test_logprobs_belong_to_the_tokens_shown(client):
    found = ask(client, logprobs=True, top_logprobs=3, max_tokens=5).choices[0].logprobs
    assert [token.token for token in found.content] == list("Birds")
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in found.content)
    assert bytes(found.content[0].bytes) == b"B" and found.content[0].top_logprobs[0].token == "B"
    chunks = streamed(client, logprobs=True, top_logprobs=3, max_tokens=5)
    tokens = [t for chunk in chunks for c in chunk.choices if c.logprobs for t in c.logprobs.content]
    assert tokens == found.content


def test_logprobs_of_a_stop_are_not_shown(client):
    found = ask(client, logprobs=True, stop=["s sit"])
    shown = b"".join(bytes(token.bytes) for token in found.choices[0].logprobs.content)
    assert shown.decode() == "Birds 🐦 sit on wires.\n\n鸟儿很安全。"[: len(shown.decode())]
    assert found.choices[0].message.content == ANSWER  # "s sit" is not in it
    cut = ask(client, logprobs=True, stop=["ds"]).choices[0]
    assert (cut.message.content, [t.token for t in cut.logprobs.content]) == ("Bir", ["B", "i", "r"])


@pytest.mark.parametrize("path", ["/v1", "", "/"])
def test_the_address_may_lack_the_version(server, path):
    client = server.openai(path)
    assert ask(client).choices[0].message.content == ANSWER
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}],
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": '{"temperature": 21}'},
        ],
    ],
)
def test_every_role_and_form_of_content_is_read(client, messages):
    assert ask(client, messages).choices[0].message.content == ANSWER


def test_a_system_and_a_developer_message_are_the_same(server):
    def tokens(role):
        return server.post("/v1/tokenize", {"messages": [{"role": role, "content": "Be kind."}, *HELLO]})[1]["tokens"]

    assert tokens("system") == tokens("developer") != tokens("user")


def test_a_call_made_before_is_read_as_g1_was_trained_to(server):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]
    tokens = server.post("/v1/tokenize", {"messages": messages})[1]["tokens"]
    text = server.post("/v1/detokenize", {"tokens": tokens})[1]["text"]
    assert 'Assistant: ```json\n{"name":"f","arguments":{"a":1}}\n```\n\nUser: Function output:\n2\n\n' in text


def test_the_client_may_give_the_beginning_of_an_answer(serve):
    """The answer continues after the last character: a leading space belongs to it, and the beginning is not
    repeated."""
    client = serve(" and south.").openai()
    begun = [*HELLO, {"role": "assistant", "content": "Birds fly east", "prefix": True}]
    found = ask(client, begun)
    assert found.choices[0].message.content == " and south."
    assert text_of(list(ask(client, begun, stream=True))) == " and south."
    begun[-1].pop("prefix")
    finished = ask(client, begun)
    assert finished.choices[0].message.content == "and south."
    assert finished.usage.prompt_tokens > found.usage.prompt_tokens


@pytest.mark.parametrize(
    ("begun", "content", "thought"),
    [
        ({"content": "<think>"}, "\nHm.\n</think>\nYes.", None),
        ({"content": "", "reasoning_content": "Well"}, "Yes.", "Hm."),
    ],
)
def test_a_client_that_begins_thinking_in_the_content_gets_it_there(serve, begun, content, thought):
    """RWKV-Runner's page begins with the tag and searches for its end; DeepSeek's API has a field for thinking."""
    message = {"role": "assistant", "prefix": True, **begun}
    [choice] = ask(serve("\nHm.\n</think>\nYes.").openai(), [*HELLO, message]).choices
    found = (choice.message.content, getattr(choice.message, "reasoning_content", None))
    assert found == (content, thought)


def test_thinking_is_split_off(serve):
    server = serve(">\nThe user greets.\n</think>\nHello!")
    found = ask(server.openai(), reasoning_effort="high")
    message = found.choices[0].message
    assert (message.content, message.reasoning_content) == ("Hello!", "The user greets.")
    assert found.usage.completion_tokens_details.reasoning_tokens > 15
    chunks = list(ask(server.openai(), reasoning_effort="high", stream=True))
    thought = "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks)
    assert (text_of(chunks), thought) == ("Hello!", "The user greets.")


def test_stops_and_logprobs_apply_only_to_the_content(serve):
    client = serve(">\nHello there.\n</think>\nHello you.").openai()
    found = ask(client, reasoning_effort="high", stop=["you"], logprobs=True).choices[0]
    assert (found.message.content, found.message.reasoning_content) == ("Hello ", "Hello there.")
    shown = b"".join(bytes(token.bytes) for token in found.logprobs.content)
    assert shown.decode().strip() == "Hello"


@pytest.mark.parametrize(
    "effort, opening, suffix",
    [("none", "", ""), ("minimal", " <think>\n</think", ""), ("low", " <think", " (think a bit)"),
     ("medium", " <think", " (think)"), ("high", " <think", " (think a lot)")],
)  # fmt: skip
def test_efforts_are_think_forms(serve, effort, opening, suffix):
    server = serve(">\nOh.\n</think>\nYes.")
    ask(server.openai(), reasoning_effort=effort)
    prompt = f"User: Hello{suffix}\n\nAssistant:{opening}"
    count = len(server.manager.tokenizer().encode(f"User: Hello{suffix}\n\n"))
    count += len(server.manager.tokenizer().encode(f"Assistant:{opening}"))
    assert ask(server.openai(), reasoning_effort=effort).usage.prompt_tokens == count, prompt


def test_a_seed_decides_everything(serve):
    """Without a script, the fake model's tokens are sampled noise."""
    client = serve(strategy="fake slots=8").openai()

    def texts(seed):
        found = ask(client, seed=seed, n=2, temperature=1.5, top_p=1.0, max_tokens=12, logit_bias={"0": -100})
        return [choice.message.content for choice in found.choices]

    assert texts(7) == texts(7) and texts(7) != texts(8)
    assert texts(7)[0] != texts(7)[1]


def test_a_bias_forces_and_forbids_tokens(serve):
    client = serve(strategy="fake slots=8").openai()
    token = 66  # "A": the byte's value plus one
    found = ask(client, logit_bias={token: 100}, max_tokens=4, frequency_penalty=0, temperature=0)
    assert found.choices[0].message.content == "AAAA"
    pairs = {"logit_bias": [[token, 100]]}  # as programs for llama.cpp write them
    found = ask(client, extra_body=pairs, max_tokens=4, frequency_penalty=0, temperature=0)
    assert found.choices[0].message.content == "AAAA"
    assert ask(client, extra_body={"logit_bias": []}, max_tokens=1).usage.completion_tokens == 1
    other = ask(client, logit_bias={token: -100}, max_tokens=4, temperature=0).choices[0].message.content
    assert "A" not in other


def test_no_request_walks_through_the_models_folder(serve, monkeypatch):
    walks: list[str] = []

    def counting(folder, dates=None):
        walks.append(threading.current_thread().name)
        return walk_models(folder, dates)

    monkeypatch.setattr(library, "walk_models", counting)
    server = serve()
    client = server.openai()
    for _ in range(20):
        assert ask(client, model="gpt-4o", max_tokens=1).model == MODEL
        assert client.models.list().data[0].id == MODEL
    assert set(walks) == {"roost-library"} and len(walks) < 10


def test_an_unknown_model_is_any_unless_names_are_strict(serve):
    assert ask(serve().openai(), model="gpt-4o").model == MODEL
    strict = serve(api_strict_models=True).openai()
    assert ask(strict, model=MODEL).model == ask(strict, model="roost-starter-v7").model == MODEL
    with pytest.raises(openai.NotFoundError) as error:
        ask(strict, model="gpt-4o")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_null_is_as_if_left_out(server):
    """Clients send their empty fields."""
    names = (
        "model", "temperature", "top_p", "top_k", "n", "seed", "stop", "stream", "stream_options", "max_tokens",
        "max_completion_tokens", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty",
        "reasoning_effort", "tools", "tool_choice", "parallel_tool_calls", "response_format", "functions",
        "function_call", "modalities", "audio", "web_search_options", "state", "user",
    )  # fmt: skip
    status, found = server.post("/v1/chat/completions", {"messages": HELLO, **dict.fromkeys(names)})
    assert (status, found["choices"][0]["message"]["content"]) == (200, ANSWER)
    events = server.events(
        "/v1/chat/completions", {"messages": HELLO, "stream": True, "stream_options": {"include_usage": None}}
    )
    assert events[-1] == "[DONE]" and "usage" not in events[-2]


def test_a_whole_number_may_be_written_with_a_point(server):
    """As in JSON Schema, and in languages without integers."""
    asked = b'{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5.0, "n": 2.0, "temperature": 0.5}'
    status, found = server.post("/v1/chat/completions", asked)
    assert status == 200 and [choice["message"]["content"] for choice in found["choices"]] == ["Birds"] * 2
    status, found = server.post("/v1/chat/completions", asked.replace(b"5.0", b"5.5"))
    assert (status, found["error"]["param"]) == (400, "max_tokens")


def test_values_written_as_text_are_read(server):
    """Forms and templates only have text."""
    asked = {"messages": HELLO, "max_tokens": "5", "temperature": "0.5", "stream": "false", "n": "2"}
    status, found = server.post("/v1/chat/completions", asked)
    assert status == 200 and [choice["message"]["content"] for choice in found["choices"]] == ["Birds"] * 2


def test_an_empty_stop_is_ignored(client):
    for stop in ("", [], [""], ["", "sit"]):
        assert ask(client, stop=stop).choices[0].message.content == (ANSWER if "sit" not in stop else "Birds 🐦 ")


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ({"id": None}, {"tool_call_id": "c"}),
        ({}, {}),
        ({"id": "c", "type": None}, {"tool_call_id": None}),
    ],
)
def test_histories_are_read_as_clients_replay_them(server, call, result):
    """Null and missing ids, arguments as an object, null contents: the same prompt as for the plain form."""

    def count(call, result, arguments, content, empty):
        messages = [
            {"role": "system", "content": empty},
            *HELLO,
            {"role": "assistant", "content": empty,
             "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}, **call}]},
            {"role": "tool", "content": content, **result},
        ]  # fmt: skip
        status, found = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
        return found["usage"]["prompt_tokens"] if status == 200 else found["error"]["param"]

    plain = count({"id": "c"}, {"tool_call_id": "c"}, '{"a":1}', '{"b":2}', "")
    odd = count(call, result, {"a": 1}, {"b": 2}, None)
    assert odd == (plain if call.get("id") or not result else "messages[3].tool_call_id")


def test_results_without_ids_belong_to_the_calls_in_their_order(server):
    calls = [{"id": f"c{n}", "function": {"name": f"f{n}", "arguments": None}} for n in (1, 2)]
    told = [{"role": "tool", "content": f"result {n}"} for n in (1, 2)]
    messages = [*HELLO, {"role": "assistant", "tool_calls": calls}, *told]
    assert server.post("/v1/chat/completions", {"messages": messages})[0] == 200
    status, found = server.post("/v1/chat/completions", {"messages": [*messages, told[0]]})
    assert (status, found["error"]["param"]) == (400, "messages[4].tool_call_id")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"reasoning_effort": "none"}, "none"), ({"chat_template_kwargs": {"enable_thinking": False}}, "none"),
        ({"chat_template_kwargs": {"thinking": True}}, "medium"), ({"thinking_budget_tokens": 0}, "none"),
        ({"thinking_budget_tokens": 500}, "low"), ({"thinking_budget_tokens": 8000}, "high"),
    ],
)  # fmt: skip
def test_thinking_is_asked_for_in_every_word(server, options, expected):
    def count(**asked):
        return server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1, **asked})[1]["usage"][
            "prompt_tokens"
        ]

    assert count(**options) == count(reasoning_effort=expected)


def test_fields_nobody_knows_are_ignored(client):
    assert ask(client, user="me", extra_body={"chat_template_kwargs": {}}).choices[0].message.content == ANSWER
