"""What is refused, how each dialect reports it, and that no error is ignored."""

from __future__ import annotations

import gzip
import json
import socket
import urllib.error
import urllib.request

import pytest

from tests.lazy_import import Lazily
from tests.waiting import wait_until
from tests.web.api.api_server import ANSWER, MODEL
from tests.web.chat.running_roost import fake_strategy
from webapp.i18n import translate

openai = Lazily("openai")

TOKEN = "a-token-for-tests"
HELLO = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


def refused(server, body, path=CHAT):
    status, found = server.post(path, body)
    keys = set(found["error"]) - {"n_prompt_tokens", "n_ctx"}  # for a prompt that is too long
    assert set(found) == {"error"} and keys == {"message", "type", "code", "param"}, found
    return status, found["error"]["code"], found["error"]["param"]


def test_a_program_at_an_address_outside_the_api_gets_a_json_error_too(server):
    for status, code, found in (
        (404, "unknown_url", server.get("/nothing")),
        (405, "wrong_method", server.post("/docs", {})),
    ):
        assert found[0] == status and found[1]["error"]["code"] == code, found
        assert "/docs" in found[1]["error"]["message"]
    status, page = server.get("/nothing", Accept="text/html")
    assert status == 404 and 'data-code="unknown_url"' in page


@pytest.mark.parametrize(
    "changes, param",
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "king", "content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "messages[0].tool_call_id"),
        ({"messages": [*HELLO, {"role": "user", "content": 7}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"temperature": 6}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -2}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 33}, "n"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"reasoning_effort": "endless"}, "reasoning_effort"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"template": "nobody's"}, "template"),
        ({"seed": 1.5}, "seed"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named(server, changes, param):
    assert refused(server, {"messages": HELLO, **changes}) == (400, "invalid_parameter", param)


@pytest.mark.parametrize(
    "changes, param",
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content[0]"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs.structural_tag"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_and_cannot_be_done_is_refused(server, changes, param):
    assert refused(server, {"messages": HELLO, **changes}) == (400, "unsupported_parameter", param)


@pytest.mark.parametrize("body", [b"", b"{", b'{"n": 1', b"\xff\xfe", b'{"audio": ' + b"[" * 100_000, b"nan"])
def test_a_body_that_is_no_json_is_refused(server, body):
    assert refused(server, body)[:2] == (400, "body_invalid")


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'"text"'])
def test_a_body_that_is_no_object_is_refused(server, body):
    assert refused(server, body)[:2] == (400, "invalid_parameter")


@pytest.mark.parametrize("depth", [60, 400])
def test_a_schema_that_is_nested_however_deep_is_refused(server, depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    form = {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}
    status, found = server.post(CHAT, {"messages": HELLO, "response_format": form})
    assert (status, found["error"]["code"]) == (400, "grammar_invalid")


def test_too_much_is_refused_before_it_is_read(serve):
    server = serve(api_max_body_bytes=2000)
    status, found = server.post(CHAT, {"messages": [{"role": "user", "content": "x" * 3000}]})
    assert (status, found["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("is_split", [False, True], ids=["at once", "after the headers"])
def test_a_body_that_is_too_large_is_counted_as_such(serve, caplog, is_split):
    server = serve(api_max_body_bytes=2000)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{server.server.addresses[0][1]}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 3000\r\n\r\n"
    with (
        caplog.at_level("INFO", "roost.api"),
        socket.create_connection(("127.0.0.1", server.server.addresses[0][1]), timeout=60) as client,
    ):
        client.sendall(head.encode() + (b"" if is_split else b"x" * 3000))
        assert client.recv(100).startswith(b"HTTP/1.1 413")
        wait_until(lambda: any(record.name == "roost.api" for record in caplog.records))  # after the response was sent
    [line] = [json.loads(record.getMessage()) for record in caplog.records if record.name == "roost.api"]
    assert (line["status"], line["error"]) == (413, "too_large")
    assert 'route="POST /v1/chat/completions",status="413"' in server.get("/metrics")[1]


def test_a_bias_on_no_token_is_named(server):
    asked = {"messages": HELLO, "logit_bias": {"70000": 1}}
    assert refused(server, asked) == (400, "token_out_of_range", "logit_bias")


def test_limits_on_prompt_and_answer(serve):
    server = serve(max_prompt_tokens=50, max_tokens_limit=100)
    long = [{"role": "user", "content": "word " * 60}]
    assert refused(server, {"messages": long})[:2] == (400, "context_length_exceeded")
    error = server.post(CHAT, {"messages": long})[1]["error"]
    found, limit = error["n_prompt_tokens"], error["n_ctx"]
    assert found > limit == 50
    words = f"maximum context length is {limit} tokens. However, your messages resulted in {found} tokens"
    assert (
        words in error["message"]
        and words in server.post(CHAT, {"messages": long}, Accept_Language="zh")[1]["error"]["message"]
    )
    error = server.post("/v1/messages", {"messages": long, "max_tokens": 5})[1]["error"]
    assert error["message"].startswith(f"prompt is too long: {found} tokens > {limit} maximum")
    counts = {
        limit: server.post(CHAT, {"messages": HELLO, "max_tokens": limit})[1]["usage"] for limit in (9, -1, 10**9)
    }
    assert [counts[limit]["completion_tokens"] for limit in counts] == [
        9,
        len(ANSWER.encode()) + 1,
        len(ANSWER.encode()) + 1,
    ]


def test_errors_are_the_clients_own_exceptions(server, client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="m", messages=[])
    assert (error.value.code, error.value.param, error.value.type) == (
        "invalid_parameter",
        "messages",
        "invalid_request_error",
    )


def test_an_unknown_address(server):
    status, found = server.get("/v1/nothing")
    assert (status, found["error"]["code"]) == (404, "unknown_url")
    status, found = server.post("/api/nothing", {"model": "m"})
    assert status == 404 and "POST /api/nothing" in found["error"]


def answer_of(server, method, path, **headers):
    """(status, headers, JSON or None)."""
    asked = urllib.request.Request(server.url + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(asked) as got:
            return got.status, got.headers, as_json(got.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers, as_json(exc.read())


def as_json(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", CHAT, "POST"), ("GET", "/v1/messages", "POST"), ("POST", "/v1/models/m", "GET"),
     ("GET", "/api/chat", "POST"), ("GET", "/api/delete", "DELETE"), ("GET", "/embeddings", "POST")],
)  # fmt: skip
def test_a_wrong_method_gets_the_right_one(server, method, path, allowed):
    status, headers, found = answer_of(server, method, path)
    assert status == 405 and allowed in headers["Allow"].split(", ") and "error" in found


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [("*/*", True), ("application/json", True), ("text/html,application/xhtml+xml,*/*;q=0.8", False)],
)
def test_a_program_gets_json_for_an_unknown_address(server, accept, is_json):
    for path in ("/nothing/at/all", "/v2/chat"):
        status, _, found = answer_of(server, "GET", path, Accept=accept)
        assert (status, found is not None) == (404, is_json)


def test_a_program_that_takes_anything_gets_the_list_of_models(server):
    for path, key in (("/models", "data"), (f"/models/{MODEL}", "id"), ("/v1/models/rwkv", "id")):
        status, _, found = answer_of(server, "GET", path, Accept="*/*")
        assert status == 200 and (found[key] == MODEL or found[key][0]["id"] == MODEL)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/models", "/api/tags", "/v1/nothing"])
def test_every_answer_names_its_request(server, path):
    method = "POST" if path in (CHAT, "/v1/messages") else "GET"
    first, second = (answer_of(server, method, path)[1] for _ in range(2))
    assert first["X-Request-Id"] == first["Request-Id"] and first["Request-Id"].startswith("req_")
    assert first["Request-Id"] != second["Request-Id"]


def test_anthropics_error_and_the_log_name_the_request(server, caplog):
    with caplog.at_level("INFO", "roost.api"):
        _, headers, found = answer_of(server, "POST", "/v1/messages")
        wait_until(lambda: headers["Request-Id"] in caplog.text)
    assert found["request_id"] == headers["Request-Id"]


def test_without_a_name_strict_names_ask_for_one(serve):
    assert refused(serve(api_strict_models=True), {"messages": HELLO}) == (400, "invalid_parameter", "model")


@pytest.mark.parametrize(
    "path, body, status",
    [
        (f"{CHAT}/", {"messages": HELLO}, 200),
        ("/chat/completions/", {"messages": HELLO}, 200),
        ("/api/chat/", {"model": "m", "messages": HELLO, "stream": False}, 200),
        ("/v1/messages/", {"model": "m", "messages": HELLO, "max_tokens": 5}, 200),
        ("/v1/nothing/", {}, 404),
        ("/v1", {}, 404),
        ("/v1/", {}, 404),
    ],
)
def test_a_slash_at_the_end_changes_nothing(server, path, body, status):
    assert server.post(path, body)[0] == status


def test_a_slash_at_the_end_of_what_is_read_changes_nothing(server):
    for path in ("/v1/models", f"/v1/models/{MODEL}", "/api/tags"):
        assert server.get(f"{path}/") == server.get(path)
    assert server.get("/v1")[1]["error"]["code"] == server.get("/v1/")[1]["error"]["code"] == "unknown_url"


def test_a_mark_before_the_json_is_passed_over(server):
    assert server.post(CHAT, b"\xef\xbb\xbf" + json.dumps({"messages": HELLO}).encode())[0] == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat"])
def test_a_compressed_body_is_refused_by_name(server, path):
    status, found = server.post(path, gzip.compress(b"{}"), Content_Encoding="gzip")
    assert status == 415 and "gzip" in json.dumps(found)
    assert server.post(CHAT, {"messages": HELLO}, Content_Encoding="identity")[0] == 200


def test_the_token_is_asked_for_in_every_dialect(serve):
    server = serve(token=TOKEN)
    with pytest.raises(openai.AuthenticationError) as error:
        server.openai(api_key="wrong").chat.completions.create(model="m", messages=HELLO)
    assert error.value.code == "invalid_api_key"
    assert server.openai(api_key=TOKEN).chat.completions.create(model="m", messages=HELLO).model == MODEL
    assert server.post(CHAT, {"messages": HELLO}, x_api_key=TOKEN)[0] == 200
    assert server.post(CHAT, {"messages": HELLO}, x_api_key=TOKEN, Authorization="Bearer another's")[0] == 200
    assert server.post(CHAT, {"messages": HELLO}, x_api_key="wrong", Authorization="Bearer another's")[0] == 401
    assert server.post("/v1/messages", {})[1]["error"]["type"] == "authentication_error"
    assert isinstance(server.post("/api/chat", {})[1]["error"], str)
    assert "detail" in server.post("/switch-model", {})[1]
    assert server.get("/metrics")[0] == server.get("/docs")[0] == 401


def test_errors_are_in_the_readers_language(server):
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    for asked, key in (
        ({}, "reason.common.is_missing"),
        ({"messages": HELLO, "temperature": 9}, "reason.api.expected"),
        ({"messages": HELLO, "n": "many"}, "reason.api.expected_not"),
        ({"messages": [{"role": "nobody"}]}, "reason.api.value_unknown"),
        ({"messages": [image]}, "reason.api.models_read_text"),
        ({"messages": [{"role": "tool", "content": "1", "tool_call_id": "x"}]}, "reason.api.no_such_call"),
    ):
        for locale in ("en", "zh"):
            found = server.post(CHAT, asked, Accept_Language=locale)[1]["error"]
            begin = translate(key, locale).partition("?")[0].strip()
            assert begin and begin in found["message"] and found["code"] and found["param"], (asked, found)


# other sites' pages


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 200),  # curl -d without a header
        ({"Content_Type": "text/plain"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin", "Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_only_programs_and_our_own_pages_may_ask(server, headers, status):
    assert server.post(CHAT, {"messages": HELLO}, **headers)[0] == status


def test_a_listed_page_may_ask_without_the_cookie(serve):
    page = "https://page.example"
    server = serve(cors_origins=(page,), token=TOKEN)

    def ask(path, method="POST", **headers):
        data = json.dumps({"messages": HELLO}).encode() if method == "POST" else None
        given = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        try:
            with urllib.request.urlopen(urllib.request.Request(server.url + path, data, given, method=method)) as got:
                return got.status, got.headers
        except urllib.error.HTTPError as exc:
            return exc.code, exc.headers

    status, headers = ask(CHAT, "OPTIONS", Origin=page, Access_Control_Request_Method="POST")
    assert status == 204 and headers["Access-Control-Allow-Origin"] == page
    status, headers = ask(CHAT, Origin=page, Authorization=f"Bearer {TOKEN}", Sec_Fetch_Site="cross-site")
    assert status == 200 and headers["Access-Control-Allow-Origin"] == page and headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in headers
    port = server.url.rpartition(":")[2]
    assert ask(CHAT, Origin=page, Cookie=f"roost_token_{port}={TOKEN}")[0] == 401
    assert ask("/status/unload", Origin=page, Authorization=f"Bearer {TOKEN}")[0] == 403
    status, headers = ask(CHAT, Origin="https://other.example", Authorization=f"Bearer {TOKEN}")
    assert status == 403 and "Access-Control-Allow-Origin" not in headers


def test_no_page_is_let_in_by_default(server):
    assert "Access-Control-Allow-Origin" not in str(server.get("/v1/models"))


# generations that fail


@pytest.mark.parametrize("options, code", [({"fail_at": 30}, "internal_error"), ({"nan_at": 30}, "non_finite_logits")])
def test_a_generation_that_breaks_is_an_error_not_an_end(serve, options, code):
    server = serve(options=options)
    status, found = server.post(CHAT, {"messages": HELLO})
    assert status >= 500 and found["error"]["code"] == code
    events = server.events(CHAT, {"messages": HELLO, "stream": True})
    assert events[-1]["error"]["code"] == code and "[DONE]" not in events
    with pytest.raises(openai.APIError) as error:
        list(server.openai().chat.completions.create(model="m", messages=HELLO, stream=True))
    assert error.value.code == code


def test_what_breaks_before_the_first_token_has_its_status_in_a_stream_too(serve):
    server = serve(strategy=fake_strategy(ANSWER, load_fail="'no weights'"))
    with pytest.raises(openai.InternalServerError) as error:
        server.openai().chat.completions.create(model="m", messages=HELLO, stream=True)
    assert (error.value.status_code, error.value.code) == (503, "load_failed")
