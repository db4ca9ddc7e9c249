"""Chat, generate and what is here, with the official client."""

from __future__ import annotations

import json

import pytest

from tests.lazy_import import Lazily
from tests.waiting import wait_until
from tests.web.api.api_server import ANSWER, MODEL
from webapp import __version__

ollama = Lazily("ollama")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(server):
    return ollama.Client(host=server.url)


def test_a_chat(client):
    found = client.chat(model="rwkv:latest", messages=HELLO)
    assert (found.message.role, found.message.content, found.model) == ("assistant", ANSWER, MODEL)
    assert (found.done, found.done_reason, found.eval_count) == (True, "stop", len(ANSWER.encode()) + 1)
    assert found.prompt_eval_count > 3 and found.total_duration > 0


def test_a_stream_adds_up_to_the_answer(client):
    lines = list(client.chat(model="rwkv", messages=HELLO, stream=True))
    assert "".join(line.message.content for line in lines) == ANSWER
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]


def test_streaming_is_what_happens_when_nothing_is_said(server):
    import urllib.request

    body = b'{"model": "m", "messages": [{"role": "user", "content": "Hello"}]}'  # as `curl -d` sends it
    with urllib.request.urlopen(urllib.request.Request(server.url + "/api/chat", body)) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson" and len(answer.read().splitlines()) > 10


def test_options_are_used(client):
    found = client.chat(model="m", messages=HELLO, options={"num_predict": 5, "num_ctx": 4096, "temperature": 0})
    assert (found.message.content, found.done_reason) == ("Birds", "length")
    found = client.chat(model="m", messages=HELLO, options={"stop": ["sit"], "num_predict": -1})
    assert found.message.content == "Birds 🐦 "


def test_what_ollama_itself_takes_is_taken(server):
    """Numbers as Go writes them, a top_k of -1, and null for what there is none of."""
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "2", "tool_name": "f"},
    ]
    asked = b'{"model": "m", "stream": false, "options": {"top_k": -1, "num_ctx": 4096.0, "num_predict": 5.0}, '
    status, found = server.post("/api/chat", asked + b'"messages": ' + json.dumps(messages).encode() + b"}")
    assert (status, found["message"]["content"]) == (200, "Birds")
    assert server.post("/api/generate", {"model": "m", "prompt": None})[1]["done_reason"] == "load"
    assert server.post("/api/show", {"model": MODEL, "name": None})[0] == 200


@pytest.mark.parametrize("keep_alive", [0, "0", "0s", 0.0])
def test_a_model_that_is_not_kept_alive_is_unloaded(serve, keep_alive):
    """`ollama stop` asks so, and Open WebUI's button."""
    server = serve()
    server.post("/api/generate", {"model": "m", "prompt": ""})
    server.manager.wait_ready(10)
    status, found = server.post("/api/generate", {"model": "m", "keep_alive": keep_alive})
    assert (status, found["done_reason"]) == (200, "unload")
    wait_until(lambda: server.manager.status().phase == "empty")


def test_only_this_machine_unloads(server):
    client = server.app.test_client()
    asked = {"model": "m", "messages": [], "keep_alive": 0}
    found = client.post("/api/chat", json=asked, headers={"X-Forwarded-For": "192.0.2.9"})
    assert found.status_code == 403


def test_generate_with_and_without_the_template(serve):
    client = ollama.Client(host=serve(" yes\n").url)
    with_template = client.generate(model="m", prompt="Is it?", system="Be short.")
    raw = client.generate(model="m", prompt="Is it?", raw=True)
    assert (with_template.response, raw.response) == ("yes", " yes\n")
    assert with_template.prompt_eval_count > raw.prompt_eval_count
    assert "".join(line.response for line in client.generate(model="m", prompt="Is it?", stream=True)) == "yes"


def test_thinking_is_split_off(serve):
    client = ollama.Client(host=serve(">\nA greeting.\n</think>\nHello!").url)
    found = client.chat(model="m", messages=HELLO, think=True)
    assert (found.message.thinking, found.message.content) == ("A greeting.", "Hello!")
    lines = list(client.chat(model="m", messages=HELLO, think="high", stream=True))
    assert "".join(line.message.thinking or "" for line in lines) == "A greeting."


def test_what_is_here(client, server):
    [model] = client.list().models
    assert (model.model, model.details.family, model.details.format) == (MODEL, "rwkv7", "safetensors")
    found = client.show(MODEL)
    assert found.modelinfo["rwkv7.block_count"] == 1 and found.capabilities == ["completion", "tools", "thinking"]
    assert found.modelinfo["rwkv7.context_length"] == server.settings.max_prompt_tokens
    client.generate(model="m", prompt="")  # loads
    client.chat(model="m", messages=HELLO)
    assert [running.model for running in client.ps().models] == [MODEL]
    assert server.get("/api/version")[1] == {"version": __version__}


@pytest.mark.parametrize(
    "ask, status",
    [
        (lambda client: client.show("nobody"), 404),
        (lambda client: client.chat(model="m", messages=HELLO, options={"temperature": 9}), 400),
        (lambda client: client.chat(model="m", messages=[{"role": "king", "content": "x"}]), 400),
        (lambda client: client.generate(model="m", prompt="a", suffix="b"), 400),
    ],
)
def test_what_is_wrong_is_the_clients_own_exception(client, ask, status):
    with pytest.raises((ollama.ResponseError, ValueError)) as error:
        ask(client)
    if isinstance(error.value, ollama.ResponseError):
        assert error.value.status_code == status and error.value.error


def test_a_generation_that_breaks_is_an_error_in_the_stream(serve):
    client = ollama.Client(host=serve(options={"fail_at": 30}).url)
    with pytest.raises(ollama.ResponseError):
        list(client.chat(model="m", messages=HELLO, stream=True))
    with pytest.raises(ollama.ResponseError) as error:
        client.chat(model="m", messages=HELLO)
    assert error.value.status_code == 500
