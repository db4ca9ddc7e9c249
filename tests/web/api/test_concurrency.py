"""Many requests at once: each is one sequence; a client that disconnects frees its slot; too many are refused; nobody
gets another's text."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.waiting import wait_until
from tests.web.api.api_server import ANSWER
from webapp.storage.people import GUEST
from webapp.web.api.operations import OPERATIONS

CHAT = "/v1/chat/completions"
ENDLESS = {"repeat": 0, "delay_ms": 5}


def body(text="Hello", **options):
    return {"messages": [{"role": "user", "content": text}], **options}


class RawClient:
    """A connection that can be dropped at any moment."""

    def __init__(self, server, asked, path=CHAT):
        host, _, port = server.url.removeprefix("http://").partition(":")
        data = json.dumps(asked).encode()
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    def read_some(self):
        return self.socket.recv(4096)

    def vanish(self):
        self.socket.close()


def is_running(server):
    return server.manager.status().running > 0


def is_free(server):
    found = server.manager.counters()
    status = server.manager.status()
    places = server.app.extensions["api_limit"].open
    return not (found.get("running") or found.get("waiting") or status.running or status.waiting or places)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_during_an_answer_frees_the_slot(serve, is_stream):
    server = serve(options=ENDLESS)
    client = RawClient(server, body(stream=is_stream, max_tokens=100_000))
    wait_until(lambda: is_running(server))
    if is_stream:
        client.read_some()
    client.vanish()
    wait_until(lambda: is_free(server))


ALL_LIMITS = dict.fromkeys(("max_tokens", "max_output_tokens", "n_predict"), 100_000)
ANY_WRITING = {**ALL_LIMITS, "options": {"num_predict": 100_000}, "input_suffix": ""}


def test_a_client_that_leaves_frees_the_slot_at_every_generating_endpoint(serve):
    """The answers never end by themselves, only because the client has left."""
    server = serve(options=ENDLESS)
    writing = [op for op in OPERATIONS if op.generates and op.stream]
    assert {op.group for op in writing} == {"openai", "states", "anthropic", "ollama", "llama_cpp"}
    for number, (op, is_stream) in enumerate(((op, is_stream) for op in writing for is_stream in (True, False)), 1):
        client = RawClient(server, {**op.example, **ANY_WRITING, "stream": is_stream}, op.path)
        wait_until(lambda: is_running(server), f"{op.path} to write")
        client.vanish()
        wait_until(lambda: is_free(server), f"{op.path} to end")
        gone = f"roost_api_disconnects_total {number}.0"
        wait_until(lambda gone=gone: gone in server.get("/metrics")[1], f"{op.path} to be counted")


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("end", ["remove", "revoke the person", "revoke the token"])
def test_a_person_blocked_during_an_answer_gets_an_error_and_frees_the_slot(serve, end, is_stream):
    server = serve(options=ENDLESS)
    people, tokens = server.app.extensions["people"], server.app.extensions["api_tokens"]
    person = people.add(kind=GUEST, name="Anna")
    secret = tokens.make("a program", ("chat",), person.id)
    with ThreadPoolExecutor(1) as pool:
        asked = body(stream=is_stream, max_tokens=100_000)
        answer = pool.submit(server.post, CHAT, asked, Authorization=f"Bearer {secret}")
        wait_until(lambda: server.manager.counters().get("decoded_tokens_total", 0) > 20)
        if end == "remove":
            people.remove(person.id)
        elif end == "revoke the person":
            people.change(person.id, revoked_at=1.0)
        else:
            tokens.revoke(tokens.find(secret).id)
        status, found = answer.result(60)
    if is_stream:
        assert status == 200 and "[DONE]" not in found
        found = json.loads(found.strip().rpartition("data: ")[2])
    else:
        assert status == 401
    assert (found["error"]["code"], found["error"]["type"]) == ("access_ended", "authentication_error")
    wait_until(lambda: is_free(server))


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_during_prefill_frees_the_slot(serve, is_stream):
    server = serve(options={"delay_ms": 100})
    server.post(CHAT, body(max_tokens=1))  # loaded
    client = RawClient(server, body("word " * 6000, stream=is_stream))  # 94 chunks, 10 s
    wait_until(lambda: is_running(server))
    client.vanish()
    wait_until(lambda: is_free(server))
    assert server.manager.counters()["prefilled_tokens_total"] < 5000


def test_a_client_that_leaves_while_waiting_leaves_the_queue(serve):
    server = serve(options={**ENDLESS, "slots": 1})
    first = RawClient(server, body(stream=True, max_tokens=100_000))
    first.read_some()
    second = RawClient(server, body(stream=True))
    wait_until(lambda: server.manager.status().waiting == 1)
    second.vanish()
    wait_until(lambda: server.manager.status().waiting == 0)
    first.vanish()
    wait_until(lambda: is_free(server))


def test_a_client_that_leaves_during_a_load_is_removed(serve):
    server = serve(options={"load_ms": 3000})
    client = RawClient(server, body(stream=True))
    wait_until(lambda: server.manager.status().phase == "loading")
    client.vanish()
    wait_until(lambda: server.manager.status().phase == "ready")
    wait_until(lambda: is_free(server))
    assert server.manager.counters()["prefilled_tokens_total"] == 0


def test_all_answers_of_a_request_end_with_it(serve):
    server = serve(options=ENDLESS)
    client = RawClient(server, body(stream=True, n=6, max_tokens=100_000))
    wait_until(lambda: server.manager.counters().get("running") == 6)
    client.vanish()
    wait_until(lambda: is_free(server))


def test_a_shared_prompt_is_read_once(serve):
    server = serve(prefill_chunk=64)
    used = server.post(CHAT, body("word " * 300, n=4, max_tokens=5))[1]["usage"]
    found = server.manager.counters()
    assert found["prefilled_tokens_total"] < used["prompt_tokens"] + 8


def test_the_place_of_one_client_is_bounded_and_pages_are_still_served(serve):
    server = serve(options=ENDLESS, api_streams_per_client=2)
    held = [RawClient(server, body(stream=True, max_tokens=100_000)) for _ in range(2)]
    for client in held:
        client.read_some()
    status, found = server.post(CHAT, body())
    assert (status, found["error"]["code"], found["error"]["type"]) == (429, "too_many_streams", "rate_limit_error")
    assert server.get("/health")[0] == 200 and server.get("/v1/models")[0] == 200
    held.pop().vanish()
    wait_until(lambda: server.app.extensions["api_limit"].open == 1)
    third = RawClient(server, body(stream=True, max_tokens=100_000))
    assert b"200 OK" in third.read_some()
    for client in (*held, third):
        client.vanish()
    wait_until(lambda: is_free(server))


def test_the_places_of_all_leave_threads_for_pages(serve):
    server = serve(options=ENDLESS, http_threads=6, max_queue=1)
    held = [RawClient(server, body(stream=True, max_tokens=100_000)) for _ in range(2)]
    for client in held:
        client.read_some()
    held.append(RawClient(server, body(stream=True)))
    wait_until(lambda: len(server.server.line) == 1)
    refused = RawClient(server, body())
    text = refused.read_some().decode()
    while "server_busy" not in text and (more := refused.read_some()):  # the header may arrive before the body
        text += more.decode()
    assert "503 SERVICE UNAVAILABLE" in text and "Retry-After: 2" in text and "server_busy" in text
    assert server.get("/health")[0] == 200
    for client in (*held, refused):
        client.vanish()
    wait_until(lambda: is_free(server))


def test_more_than_there_are_places_for_wait_without_a_thread(serve):
    """Also those whose clients leave; pages are answered meanwhile."""
    server = serve(options={**ENDLESS, "repeat": 1}, http_threads=6)
    gone = [RawClient(server, body()) for _ in range(2)]
    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(server.post, CHAT, body(max_tokens=20)) for _ in range(24)]
        wait_until(lambda: len(server.server.line) > 8)
        for client in gone:
            client.vanish()
        assert server.get("/health")[0] == 200
        assert {one.result()[0] for one in asked} == {200}
    wait_until(lambda: is_free(server) and not len(server.server.line))


def test_a_full_queue_is_said(serve):
    server = serve(options={**ENDLESS, "slots": 1}, max_queue=1)
    held = [RawClient(server, body(stream=True, max_tokens=100_000))]
    held[0].read_some()
    held.append(RawClient(server, body(stream=True)))
    wait_until(lambda: server.manager.status().waiting == 1)
    status, found = server.post(CHAT, body())
    assert (status, found["error"]["code"]) == (503, "queue_full")
    for client in held:
        client.vanish()
    wait_until(lambda: is_free(server))


def test_nobody_gets_anothers_text(serve):
    """Each continues its own prompt: the script continues from the place with which the prompt ends."""
    script = "".join(f"<{number:02d}|{'x' * (number % 7)}{number * 37:04d}>" for number in range(100))
    server = serve(script, options={"slots": 8})

    def ask(number):
        begun = [byte + 1 for byte in script.split(f"<{number + 1:02d}|")[0].encode()]
        found = server.post("/v1/completions", {"prompt": begun, "max_tokens": 12, "n": 1 + number % 2})[1]
        return number, [choice["text"] for choice in found["choices"]]

    with ThreadPoolExecutor(16) as pool:
        for number, texts in pool.map(ask, list(range(60)) * 2):
            begin = len(script.split(f"<{number + 1:02d}|")[0])
            assert texts == [script[begin : begin + 12]] * (1 + number % 2)
    wait_until(lambda: is_free(server))


def test_figures_and_log_contain_events_but_no_texts(serve, caplog):
    server = serve()

    def is_logged(count):
        return len([r for r in caplog.records if r.name == "roost.api"]) >= count

    with caplog.at_level("INFO", "roost.api"):
        server.post(CHAT, body("a secret word"))
        wait_until(lambda: is_logged(1))
        server.post(CHAT, {"messages": []})
        wait_until(lambda: is_logged(2))
        client, text = RawClient(server, body(stream=True)), b""
        while b"[DONE]" not in text:
            text += client.read_some()
        wait_until(lambda: is_logged(3))
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "roost.api"]
    assert [line["status"] for line in lines] == [200, 400, 200]
    assert lines[0]["completion_tokens"] == len(ANSWER.encode()) + 1 and lines[0]["finish"] == "stop"
    assert lines[1]["error"] == "invalid_parameter" and lines[2]["stream"] is True
    assert "secret" not in caplog.text and "Birds" not in str(lines)
    figures = server.get("/metrics")[1]
    assert 'roost_api_requests_total{route="POST /v1/chat/completions",status="200"} 2.0' in figures
    assert 'status="400"' in figures and "roost_engine_unowned_sequences 0.0" in figures
    assert f'roost_api_tokens_total{{kind="completion"}} {2.0 * (len(ANSWER.encode()) + 1)}' in figures
    assert "roost_engine_decoded_tokens_total" in figures and "roost_engine_max_sequences 16.0" in figures


def test_threads_are_given_back(serve):
    server = serve()
    server.post(CHAT, body())
    before = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: server.post(CHAT, body(n=4)), range(24)))
    wait_until(lambda: threading.active_count() <= before + 1)
