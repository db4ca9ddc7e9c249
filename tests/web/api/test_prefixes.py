"""Requests that start from a prefix, in each dialect: it is not prefilled again, and the usage counts it as cached."""

from __future__ import annotations

import pytest

from tests.waiting import wait_until
from tests.web.chat.running_roost import models_dir
from webapp.services.states import source_of_document

HELLO = [{"role": "user", "content": "What is the cat called?"}]
NAME = "cats"


@pytest.fixture
def server(serve, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for file in models_dir().iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    server = serve(models_dir=folder)
    prefixes = server.app.extensions["prefixes"]
    job = prefixes.bake(source_of_document("cats.md", "The cat is called Tom. " * 20), NAME)
    wait_until(lambda: prefixes.states.jobs.job(job.id).is_over)
    server.tokens = prefixes.states.entry(f"{NAME}.safetensors").sheet.prefix.tokens
    return server


def openai_usage(found):
    return found["usage"]["prompt_tokens"], found["usage"]["prompt_tokens_details"]["cached_tokens"]


def responses_usage(found):
    return found["usage"]["input_tokens"], found["usage"]["input_tokens_details"]["cached_tokens"]


def anthropic_usage(found):
    usage = found["usage"]
    return usage["input_tokens"] + usage["cache_read_input_tokens"], usage["cache_read_input_tokens"]


DIALECTS = {
    "/v1/chat/completions": ({"messages": HELLO}, openai_usage),
    "/v1/completions": ({"prompt": "User: Hi\n\nAssistant:"}, openai_usage),
    "/v1/responses": ({"input": "What is the cat called?"}, responses_usage),
    "/v1/messages": ({"messages": HELLO, "max_tokens": 5}, anthropic_usage),
    "/api/chat": ({"messages": HELLO, "stream": False}, lambda found: (found["prompt_eval_count"], None)),
}


@pytest.mark.parametrize("path", DIALECTS)
def test_usage_counts_the_whole_prompt_and_what_of_it_was_not_read(server, path):
    body, usage = DIALECTS[path]
    bare, _ = usage(server.post(path, body)[1])
    for start in ({"prefix_id": NAME}, {"state": f"{NAME}.safetensors"}):
        status, found = server.post(path, {**body, **start})
        assert status == 200, found
        prompt, cached = usage(found)
        assert prompt > bare + server.tokens - 8
        assert cached is None or server.tokens <= cached <= prompt


def test_an_invalid_prefix_and_two_beginnings_are_refused(server):
    path, body = "/v1/chat/completions", {"messages": HELLO}
    status, found = server.post(path, {**body, "prefix_id": "nobody"})
    assert (status, found["error"]["code"]) == (404, "state_not_found")
    status, found = server.post(path, {**body, "prefix_id": NAME, "state": ""})
    assert (status, found["error"]["param"]) == (400, "prefix_id")
    assert server.post(path, {**body, "prefix_id": None})[0] == 200


def test_requests_with_and_without_it_do_not_meet(server):
    """A, B and A again: each knows only its own text."""
    path, body = "/v1/chat/completions", {"messages": HELLO, "temperature": 0}
    found = [
        openai_usage(server.post(path, {**body, **start})[1])
        for start in ({}, {"prefix_id": NAME}, {}, {"prefix_id": NAME})
    ]
    assert found[0][0] == found[2][0] < found[1][0] == found[3][0]
    assert found[0][1] == 0 and found[1][1] == server.tokens
