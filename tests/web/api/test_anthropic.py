"""Messages, with the official client."""

from __future__ import annotations

import json

import pytest

from tests.lazy_import import Lazily
from tests.web.api.api_server import ANSWER, MODEL
from webapp.chat.messages import ThinkMode
from webapp.web.api.answering import converted
from webapp.web.api.anthropic import MessageRequest, think_mode_of

anthropic = Lazily("anthropic")
HELLO = [{"role": "user", "content": "Hello"}]


def connect(server, **options):
    return anthropic.Anthropic(base_url=server.url, max_retries=0, timeout=60, **{"api_key": "none", **options})


def ask(client, messages=HELLO, **options):
    return client.messages.create(model="rwkv", messages=messages, **{"max_tokens": 200, **options})


@pytest.fixture
def client(server):
    return connect(server)


def test_an_answer(client):
    found = ask(client, system="Be kind.")
    assert found.id.startswith("msg_") and (found.type, found.role, found.model) == ("message", "assistant", MODEL)
    assert [(block.type, block.text) for block in found.content] == [("text", ANSWER)]
    assert (found.stop_reason, found.stop_sequence) == ("end_turn", None)
    assert found.content[0].citations == [] and {"stop_details", "container"} <= found.to_dict().keys()
    assert found.usage.cache_creation.ephemeral_5m_input_tokens == 0 and found.usage.service_tier == "standard"
    assert found.usage.output_tokens == len(ANSWER.encode()) + 1


def test_a_stream_adds_up_to_the_answer(client):
    with client.messages.stream(model="m", max_tokens=200, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == ANSWER
        found = stream.get_final_message()
    assert (found.content[0].text, found.stop_reason) == (ANSWER, "end_turn")
    assert found.usage.output_tokens == len(ANSWER.encode()) + 1


def test_events_come_in_their_order(client):
    kinds = [event.type for event in ask(client, stream=True, max_tokens=2)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_how_an_answer_ends(client):
    found = ask(client, max_tokens=5)
    assert (found.content[0].text, found.stop_reason) == ("Birds", "max_tokens")
    found = ask(client, stop_sequences=["sit", "never"])
    assert (found.content[0].text, found.stop_reason, found.stop_sequence) == ("Birds 🐦 ", "stop_sequence", "sit")


def test_thinking_is_a_separate_block(serve):
    client = connect(serve(">\nThe user greets.\n</think>\nHello!"))
    thinking = {"type": "enabled", "budget_tokens": 2048}
    found = ask(client, thinking=thinking)
    assert [block.type for block in found.content] == ["thinking", "text"]
    assert (found.content[0].thinking, found.content[1].text) == ("The user greets.", "Hello!")
    assert found.usage.output_tokens > found.usage.output_tokens_details.thinking_tokens > 15
    with client.messages.stream(model="m", max_tokens=200, messages=HELLO, thinking=thinking) as stream:
        streamed = stream.get_final_message()
    assert [block.type for block in streamed.content] == ["thinking", "text"]
    assert (streamed.content[0].thinking, streamed.content[1].text) == ("The user greets.", "Hello!")


def test_a_last_message_of_the_assistant_is_the_beginning(serve):
    client = connect(serve(" and south."))
    assert ask(client, [*HELLO, {"role": "assistant", "content": "North"}]).content[0].text == " and south."


def test_tokens_are_counted_as_they_are_used(client):
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    counted = client.messages.count_tokens(model="m", messages=messages, system="Be kind.").input_tokens
    used = ask(client, messages, system="Be kind.").usage
    assert counted == used.input_tokens + used.cache_read_input_tokens


def test_results_of_tools_are_read(client):
    messages = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2"}]},
    ]
    assert ask(client, messages).content[0].text == ANSWER


PLAIN = {"type": "text", "media_type": "text/plain"}
FOUND = {
    "type": "search_result",
    "source": "https://a.example",
    "title": "Wires",
    "content": [{"type": "text", "text": "Birds"}],
}


def test_documents_of_text_and_what_was_found_are_read(server, client):
    """Also in a tool's result; a PDF, or an image in one, is refused by name."""
    documents = [{"type": "document", "title": "Birds", "source": {**PLAIN, "data": "They sit."}}, FOUND]
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}
    for blocks in (documents, [{"type": "tool_result", "tool_use_id": "t1", "content": documents}]):
        as_text = [
            {"type": "text", "text": "Birds\nThey sit."},
            {"type": "text", "text": "Wires\nhttps://a.example\nBirds"},
        ]
        if blocks is not documents:
            as_text = [{**blocks[0], "content": as_text}]
        counted = [
            client.messages.count_tokens(
                model="m", messages=[*HELLO, call, {"role": "user", "content": given}]
            ).input_tokens
            for given in (blocks, as_text)
        ]
        assert counted[0] == counted[1] > 20
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
    image = {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}
    for blocks in ([pdf], [{"type": "tool_result", "tool_use_id": "t1", "content": [image]}]):
        messages = [*HELLO, call, {"role": "user", "content": blocks}]
        status, found = server.post("/v1/messages", {"max_tokens": 5, "messages": messages})
        kind = blocks[0].get("content", blocks)[0]["type"]
        assert (status, found["error"]["type"]) == (400, "invalid_request_error") and kind in found["error"]["message"]


@pytest.mark.parametrize(
    "asked, mode",
    [
        ({}, None),
        ({"output_config": {"effort": "low"}}, None),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, ThinkMode.NONE),
        ({"thinking": {"type": "adaptive"}}, ThinkMode.THINK),
        (
            {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "low"}},
            ThinkMode.THINK_A_BIT,
        ),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, ThinkMode.THINK_A_LOT),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "max"}}, ThinkMode.THINK),
    ],
)
def test_the_effort_limits_the_thinking_of_a_model_that_thinks(asked, mode):
    read = converted({"max_tokens": 5, "messages": HELLO, **asked}, MessageRequest)
    assert think_mode_of(read) is mode


def test_anthropics_own_tools_are_left_out_and_named(client):
    own = [{"type": "web_search_20250305", "name": "web_search"}, {"type": "bash_20250124", "name": "bash"}]
    told = client.messages.with_raw_response.create(model="any", max_tokens=3, messages=HELLO, tools=own)
    assert told.headers["x-roost-tools-left-out"] == "web_search_20250305, bash_20250124"


@pytest.mark.parametrize(
    "options",
    [
        {"messages": []},
        {"max_tokens": 0},
        {"extra_body": {"temperature": 9}},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
        {"tools": [{"name": "no name", "input_schema": {"type": "object"}}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "any"}},
        {"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "tool", "name": "bash"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}},
    ],
    ids=str,
)
def test_what_is_wrong_is_the_clients_own_exception(client, options):
    with pytest.raises(anthropic.BadRequestError) as error:
        ask(client, **options)
    body = error.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"


def test_an_answer_fits_the_form_that_is_asked_for(client):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}}
    found = ask(client, output_config=form)
    assert json.loads(found.content[0].text)["ok"] in (True, False)
    with client.messages.stream(model="m", max_tokens=200, messages=HELLO, output_config=form) as stream:
        assert "ok" in json.loads(stream.get_final_message().content[0].text)


def test_models_are_listed_in_its_words(client):
    [model] = client.models.list()
    assert (model.type, model.id) == ("model", MODEL) and model.created_at.year > 2000
    assert client.models.retrieve(MODEL).display_name == MODEL


def test_the_token_is_its_api_key(serve):
    server = serve(token="a-token-for-tests")
    with pytest.raises(anthropic.AuthenticationError):
        ask(connect(server, api_key="wrong"))
    assert ask(connect(server, api_key="a-token-for-tests")).content[0].text == ANSWER


def test_a_generation_that_breaks_is_an_error_in_the_stream(serve):
    client = connect(serve(options={"fail_at": 30}))
    with pytest.raises(anthropic.APIError):
        list(ask(client, stream=True))
    with pytest.raises(anthropic.InternalServerError):
        ask(client)
