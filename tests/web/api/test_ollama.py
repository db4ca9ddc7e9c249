"""Chat, generate and the lists, with the official client."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.lazy_import import Lazily
from tests.services.downloads.hub_server import HubServer
from tests.services.library.library_folder import good_bytes
from tests.waiting import wait_until
from tests.web.api.api_server import ANSWER, MODEL
from tests.web.api.test_tools import BOTH, TIME, WEATHER, spoken
from tests.web.chat.running_roost import models_dir
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
    body = b'{"model": "m", "messages": [{"role": "user", "content": "Hello"}]}'  # as `curl -d` sends it
    with urllib.request.urlopen(urllib.request.Request(server.url + "/api/chat", body)) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson" and len(answer.read().splitlines()) > 10


def test_options_are_used(client):
    found = client.chat(model="m", messages=HELLO, options={"num_predict": 5, "num_ctx": 4096, "temperature": 0})
    assert (found.message.content, found.done_reason) == ("Birds", "length")
    found = client.chat(model="m", messages=HELLO, options={"stop": ["sit"], "num_predict": -1})
    assert found.message.content == "Birds 🐦 "


def test_values_that_ollama_accepts_are_accepted(server):
    """Numbers as Go writes them, a top_k of -1, and null for missing values."""
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


def test_values_above_the_maximum_mean_the_maximum(serve):
    """A top_k above the vocabulary's size, and so many tokens that the server's limit applies."""
    server = serve(max_tokens_limit=5)
    body = {"model": "m", "messages": HELLO, "stream": False, "options": {"top_k": 100_000, "num_predict": 10**9}}
    status, found = server.post("/api/chat", body)
    assert (status, found["message"]["content"], found["done_reason"]) == (200, "Birds", "length")
    for path in ("/v1/chat/completions", "/v1/messages"):
        body = {"model": "m", "messages": HELLO, "max_tokens": 10**9, "top_k": 100_000}
        assert server.post(path, body)[0] == 200


@pytest.mark.parametrize("keep_alive", [0, "0", "0s", 0.0])
def test_a_model_that_is_not_kept_alive_is_unloaded(serve, keep_alive):
    """As `ollama stop` and Open WebUI's button request it."""
    server = serve()
    server.post("/api/generate", {"model": "m", "prompt": ""})
    server.manager.wait_ready(60)
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
    [running] = client.ps().models
    assert (running.model, running.context_length) == (MODEL, server.settings.max_prompt_tokens)
    version = server.get("/api/version")[1]
    assert version["roost"] == __version__ and tuple(map(int, version["version"].split("."))) >= (0, 13, 4), (
        "Codex asks for it"
    )
    assert client.show("rwkv:latest").modelinfo == found.modelinfo
    assert found.modelinfo["general.basename"] == "roost-starter-v7"


def test_logprobs_of_the_tokens_join_to_the_answer(client):
    asked = {"model": "m", "logprobs": True, "top_logprobs": 2, "options": {"num_predict": 8}}
    whole = client.chat(messages=HELLO, **asked)
    streamed = client.chat(messages=HELLO, stream=True, **asked)
    text = client.generate(prompt="Hello", **asked)
    for tokens in (whole.logprobs, [token for line in streamed for token in line.logprobs or ()], text.logprobs):
        assert "".join(token.token for token in tokens) == whole.message.content == text.response
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
    assert client.chat(model="m", messages=HELLO, top_logprobs=2).logprobs is None, "only where they are asked for"


def test_the_older_embeddings_are_the_same(client):
    [vector] = client.embed(model="m", input="a bird").embeddings
    assert client.embeddings(model="m", prompt="a bird").embedding == vector


def test_calls_of_an_answer_are_numbered(serve):
    server = serve(strategy=spoken(BOTH))
    asked = {"messages": HELLO, "tools": [WEATHER, TIME]}
    whole = server.post("/api/chat", {**asked, "stream": False})[1]["message"]["tool_calls"]
    lines = lines_of(server, "/api/chat", asked)
    streamed = [call for line in lines for call in line["message"].get("tool_calls", ())]
    for calls in (whole, streamed):
        assert [(call["function"]["index"], call["function"]["name"]) for call in calls] == [
            (0, "get_weather"),
            (1, "get_time"),
        ]


def lines_of(server, path, asked, **headers):
    data = json.dumps(asked).encode()
    with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers)) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def owner_of(server):
    return {"Authorization": f"Bearer {(server.settings.data_dir / 'owner.key').read_text().strip()}"}


def test_the_owner_pulls_and_deletes(serve, tmp_path):
    hub = HubServer({"tiny.safetensors": good_bytes()})
    (tmp_path / "models").mkdir()
    server = serve(hub_url=hub.url, models_dir=tmp_path / "models", model=str(models_dir() / MODEL))
    key, wanted = owner_of(server), {"model": "someone/models/tiny.safetensors"}
    try:
        assert server.post("/api/pull", wanted)[0] == server.post("/api/create", wanted)[0] == 403
        assert lines_of(server, "/api/pull", wanted, **key)[-1] == {"status": "success"}
        pulled = tmp_path / "models" / "tiny.safetensors"
        assert pulled.read_bytes() == good_bytes()
        wait_until(lambda: lines_of(server, "/api/pull", {"model": "tiny"}, **key) == [{"status": "success"}])
        deleted = urllib.request.Request(
            f"{server.url}/api/delete",
            b'{"model": "tiny"}',
            {**key, "Content-Type": "application/json"},
            method="DELETE",
        )
        with urllib.request.urlopen(deleted) as answer:
            assert answer.status == 200 and not pulled.exists()
        for path in ("/api/pull", "/api/create", "/api/copy"):
            assert server.post(path, {"model": "nobody has it", "stream": False}, **key)[0] == 400
        missing = {"model": "someone/models/none.safetensors"}
        assert "error" in lines_of(server, "/api/pull", missing, **key)[-1]
    finally:
        hub.close()


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
