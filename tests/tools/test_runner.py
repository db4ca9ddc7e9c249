"""A call runs only with arguments that follow its schema, contacts only allowed hosts, and never breaks a turn."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from msgspec.structs import replace

from tests.errors import contains, keys_in, raises_code
from webapp.chat.messages import ToolCall
from webapp.errors import ToolInvalid
from webapp.tools import runner
from webapp.tools.definition import Behaviour, HttpCall, ToolDefinition, checked, from_openai
from webapp.tools.runner import MAX_RESULT_CHARS, check_call, run_call

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[A-Z]"},
        "days": {"type": "integer", "minimum": 1},
        "at": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]},
    },
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolDefinition("get_weather", "Weather", PARAMETERS, Behaviour.FIXED, '{"temperature": "22"}')


def call(arguments: object) -> ToolCall:
    return ToolCall("1", "get_weather", arguments if isinstance(arguments, str) else json.dumps(arguments))


def test_a_fixed_value_is_the_result() -> None:
    result = run_call(call({"city": "Paris"}), WEATHER)
    assert result is not None and result.text == '{"temperature": "22"}' and not result.is_error


def test_a_person_is_asked_for_the_result_of_a_tool_that_asks() -> None:
    assert run_call(call({"city": "Paris"}), replace(WEATHER, behaviour=Behaviour.ASK)) is None


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({}, ""),
        ({"city": 3}, "city"),
        ({"city": "Paris", "days": 0}, "days"),
        ({"city": "Paris", "at": {"x": "perhaps"}}, "at.x"),
        ({"city": "Paris", "more": 1}, ""),
        ("[1]", ""),
        ("{", ""),
    ],
)
def test_arguments_that_do_not_fit_never_run_and_say_where(arguments: object, path: str) -> None:
    result = run_call(call(arguments), WEATHER)
    assert result is not None and result.is_error and result.problems[0].path == path
    assert keys_in(result.reason)[0] == "reason.tools.arguments_do_not_fit"


def test_text_is_taken_for_a_number_where_the_schema_wants_one() -> None:
    assert check_call(call({"city": "Paris", "days": "3"}), WEATHER) == ()


def test_patterns_are_checked_in_linear_time() -> None:
    asked = []
    problems = check_call(call({"city": "paris"}), WEATHER, lambda *found: bool(asked.append(found)))
    assert asked == [("^[A-Z]", "paris")] and problems[0].path == "city"


def test_a_huge_result_is_cut_and_says_so() -> None:
    definition = replace(WEATHER, fixed_value="x" * 5_000_000)
    result = run_call(call({"city": "Paris"}), definition)
    assert result is not None and len(result.text) < MAX_RESULT_CHARS + 100 and "5000000 characters" in result.text


HOSTILE: dict = {"type": "object"}
for _ in range(40):
    HOSTILE = {"type": "object", "properties": {"a": HOSTILE}}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "two words"},
        {"name": "x" * 65},
        {"name": 3},
        {"name": "f", "description": 3},
        {"name": "f", "parameters": []},
        {"name": "f", "parameters": {"type": "string"}},
        {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "nonsense"}}}},
        {"name": "f", "parameters": {"type": "object", "properties": {"a": {"$ref": "http://evil.example/x"}}}},
        {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": list(range(10_000))}}}},
        {"name": "f", "parameters": HOSTILE},
        {"name": "f", "parameters": {"type": "object", "properties": dict.fromkeys(map(str, range(3000)), True)}},
        {"name": "f", "parameters": {"type": "object", "description": "x" * 200_000}},
        "text",
        None,
    ],
    ids=lambda row: str(row)[:40],
)
def test_a_definition_that_cannot_be_kept_names_its_field(value: object) -> None:
    with pytest.raises(ToolInvalid) as caught:
        from_openai(value)
    assert caught.value.params["field"]


def test_a_schema_that_refers_to_itself_is_followed_only_as_far_as_the_arguments_go() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    definition = checked(ToolDefinition("f", parameters={"$defs": {"node": node}, **node}))
    assert check_call(call({"next": {"next": {"next": {}}}}), definition) == ()
    assert check_call(call({"next": {"next": 3}}), definition)[0].path == "next.next"


def test_both_forms_people_paste_are_read() -> None:
    function = {"name": "f", "description": "d", "parameters": PARAMETERS}
    assert from_openai(function) == from_openai({"type": "function", "function": function})


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.1)
            return
        if self.path.startswith("/large"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * (runner.MAX_RESPONSE_BYTES + 1))
            return
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/secret")
            self.end_headers()
            return
        self.send_response(404 if self.path.startswith("/missing") else 200)
        if self.path.startswith("/missing"):
            self.end_headers()
            return
        if self.path.startswith("/gbk"):
            self.send_header("Content-Type", "text/plain; charset=gb2312")
            self.end_headers()
            self.wfile.write("晴".encode("gb2312"))
            return
        self.end_headers()
        self.wfile.write(json.dumps({"path": self.path, "host": self.headers["Host"]}).encode())

    do_DELETE = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *found: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def asking(url: str, method: str = "GET") -> ToolDefinition:
    return replace(WEATHER, behaviour=Behaviour.HTTP, http=HttpCall(url, method, timeout_s=5))


def test_arguments_go_into_the_address_encoded(port: int) -> None:
    definition = asking(f"http://127.0.0.1:{port}/weather/{{city}}?units=si")
    result = run_call(call({"city": "Saint-Étienne/../x", "days": 2}), definition, ["127.0.0.1"])
    assert result is not None and not result.is_error
    assert json.loads(result.text)["path"] == "/weather/Saint-%C3%89tienne%2F..%2Fx?units=si&days=2"


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"unit": {"type": "string"}}, "/Paris?lang=en"),
        ({"unit": {"type": "string", "default": "celsius"}}, "/Paris?unit=celsius&lang=en"),
    ],
)
def test_what_a_call_leaves_out_is_its_default_in_the_address_or_nothing(port: int, parameters: dict, path: str):
    schema = {"type": "object", "properties": {"city": {"type": "string"}, **parameters}}
    definition = asking(f"http://127.0.0.1:{port}/{{city}}?unit={{unit}}&lang=en#top")
    result = run_call(call({"city": "Paris"}), replace(definition, parameters=schema), ["127.0.0.1"])
    assert result is not None and json.loads(result.text)["path"] == path


def test_an_address_may_be_typed_in_any_language_and_the_answer_be_in_its_encoding(port: int) -> None:
    definition = asking(f"http://127.0.0.1:{port}/天气 今天?城市={{city}}&x=%20a")
    result = run_call(call({"city": "Paris"}), definition, ["127.0.0.1"])
    assert result is not None
    assert json.loads(result.text)["path"].startswith("/%E5%A4%A9%E6%B0%94%20%E4%BB%8A%E5%A4%A9?%E5%9F%8E")
    assert json.loads(result.text)["path"].endswith("=Paris&x=%20a")
    result = run_call(call({"city": "Paris"}), asking(f"http://127.0.0.1:{port}/gbk"), ["127.0.0.1"])
    assert result is not None and result.text == "晴"


def test_a_delete_asks_with_its_arguments(port: int) -> None:
    definition = asking(f"http://127.0.0.1:{port}/x", "DELETE")
    result = run_call(call({"city": "Paris"}), definition, ["127.0.0.1"])
    assert result is not None and json.loads(result.text)["path"] == "/x?city=Paris"


@pytest.mark.parametrize("arguments", ['{"city": "Paris", "days": NaN}', '{"city": "Paris", "days": 1e999}'])
def test_numbers_that_are_none_of_json_do_not_run(arguments: str) -> None:
    made = ToolCall("call_1", WEATHER.name, arguments)
    result = run_call(made, replace(WEATHER, behaviour=Behaviour.FIXED, fixed_value="22"))
    assert result is not None and result.is_error
    assert "reason.tools.arguments_not_an_object_error" in keys_in(result.reason)


def test_a_post_carries_the_rest_as_json(port: int) -> None:
    result = run_call(call({"city": "Paris"}), asking(f"http://127.0.0.1:{port}/", "POST"), ["127.0.0.1"])
    assert result is not None and json.loads(result.text) == {"city": "Paris"}


@pytest.mark.parametrize(
    ("url", "allowed", "key", "told"),
    [
        ("http://127.0.0.1:{port}/", [], "host_not_allowed", {"host": "127.0.0.1"}),
        ("http://localhost:{port}/", ["localhost"], "private_address", {}),
        ("http://169.254.169.254/latest", ["example.org"], "host_not_allowed", {}),
        ("file:///etc/passwd", ["127.0.0.1"], "is_not_an_http_address", {}),
        ("http://user:pass@127.0.0.1/", ["127.0.0.1"], "is_not_an_http_address", {}),
        ("http://127.0.0.1:{port}/large", ["127.0.0.1"], "answer_too_large", {}),
        ("http://127.0.0.1:{port}/elsewhere", ["127.0.0.1"], "redirected", {"place": "http://127.0.0.1/secret"}),
        ("http://127.0.0.1:{port}/missing", ["127.0.0.1"], "answered_with_status", {"status": 404}),
        ("http://127.0.0.1:1/", ["127.0.0.1"], "nothing_listens", {"host": "127.0.0.1", "port": 1}),
        ("http://[::bad", ["127.0.0.1"], "is_not_an_address", {}),
        ("http://127.0.0.1:99999/", ["127.0.0.1"], "is_not_an_address", {}),
    ],
)
def test_what_must_not_be_reached_is_refused(
    port: int, url: str, allowed: list[str], key: str, told: dict[str, object]
) -> None:
    result = run_call(call({"city": "Paris"}), asking(url.format(port=port)), allowed)
    assert result is not None and result.is_error and contains(result.reason, key=f"reason.tools.{key}", **told)


def test_a_name_that_leads_inside_is_refused_at_whatever_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(2, 1, 6, "", ("10.0.0.7", 80))]
    monkeypatch.setattr(runner.socket, "getaddrinfo", lambda *args, **kwargs: rows)
    result = run_call(call({"city": "Paris"}), asking("http://intranet.example/"), ["intranet.example"])
    assert result is not None and contains(result.reason, key="reason.tools.private_address", ip="10.0.0.7")


@pytest.mark.parametrize("ip", ["64:ff9b:1::a00:1", "::ffff:192.168.0.1", "::a00:7", "fe80::1%eth0", "192.0.0.8"])
def test_a_name_that_resolves_inside_is_refused_however_the_address_is_written(monkeypatch, ip: str) -> None:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    rows = [(family, socket.SOCK_STREAM, 6, "", (ip, 80))]
    monkeypatch.setattr(runner.socket, "getaddrinfo", lambda *args, **kwargs: rows)
    result = run_call(call({"city": "Paris"}), asking("http://intranet.example/"), ["intranet.example"])
    assert result is not None and contains(result.reason, key="reason.tools.private_address", ip=ip)


def problems_of(schema: dict, arguments: dict) -> tuple:
    from webapp.structured.grammar import matches

    return check_call(call(arguments), ToolDefinition("f", parameters={"type": "object", **schema}), matches)


def test_patterns_of_names_are_matched_in_linear_time_too() -> None:
    """The jsonschema package would match `^(a+)+$` with Python's `re`: 2^40 steps for this name."""
    schema = {"patternProperties": {"^(a+)+$": {"type": "integer"}}, "additionalProperties": False}
    [problem] = problems_of(schema, {"a" * 40 + "b": 1})
    assert keys_in(problem.message) == ["reason.tools.unknown_property"]
    assert problems_of(schema, {"aaa": 1}) == () and problems_of(schema, {"aaa": "x"})[0].path == "aaa"
    assert problems_of({**schema, "additionalProperties": {"type": "null"}}, {"b": 1})[0].path == "b"


def test_a_schema_that_multiplies_itself_is_given_up() -> None:
    levels = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(30)}
    schema = {"$defs": {**levels, "a30": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a0"}}}
    [problem] = problems_of(schema, {"x": "text"})
    assert keys_in(problem.message) == ["reason.tools.schema_cannot_be_followed"]


def test_many_values_are_distinguished_in_linear_time() -> None:
    schema = {"properties": {"x": {"type": "array", "uniqueItems": True}}}
    different = [{"n": number} for number in range(15_000)]
    assert problems_of(schema, {"x": different}) == ()
    assert problems_of(schema, {"x": [*different, {"n": 7}]})[0].path == "x"


def test_a_megabyte_of_arguments_does_not_run() -> None:
    [problem] = problems_of({}, {"x": "y" * 1_000_000})
    assert contains(problem.message, key="reason.common.too_long", found=1_000_009)


@pytest.mark.parametrize("reference", ["#/$defs/a", "#/$defs/nobody", "#/properties/x"])
def test_a_reference_to_nothing_but_itself_is_refused(reference: str) -> None:
    loop = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
    schema = {"type": "object", "$defs": loop, "properties": {"x": {"$ref": reference}}}
    with raises_code("tool_invalid", key="reason.tools.broken_reference"):
        checked(ToolDefinition("f", parameters=schema))
    checked(ToolDefinition("f", parameters={"type": "object", "properties": {"again": {"$ref": "#"}}}))


def test_a_server_that_sends_a_byte_now_and_then_is_cut_off_in_time(port: int) -> None:
    """Its response takes 10 s, and no single read waits long."""
    definition = replace(
        asking(f"http://127.0.0.1:{port}/slow"), http=HttpCall(f"http://127.0.0.1:{port}/slow", timeout_s=0.5)
    )
    result = run_call(call({"city": "Paris"}), definition, ["127.0.0.1"])
    assert result is not None
    assert keys_in(result.reason) == ["reason.tools.took_too_long"]


@pytest.mark.parametrize(
    ("ip", "is_public"),
    [
        ("1.1.1.1", True), ("2606:4700::1111", True), ("64:ff9b::101:101", True), ("::ffff:1.1.1.1", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False),
        ("::1", False), ("::", False), ("fd00::1", False), ("fe80::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("2002:7f00:1::", False),
        ("192.0.0.1", False), ("192.0.0.9", False), ("192.0.0.192", False), ("192.0.1.1", True), ("192.1.0.1", True),
        ("255.255.255.255", False), ("240.0.0.1", False), ("239.255.255.250", False), ("223.255.255.254", True),
        ("198.18.0.1", False), ("198.19.255.255", False), ("198.20.0.1", True), ("100.100.100.200", False),
        ("172.15.0.1", True), ("172.32.0.1", True), ("192.88.99.1", False), ("168.63.129.16", False),
        ("192.0.2.1", False), ("198.51.100.1", False), ("203.0.113.1", False), ("0.1.2.3", False),
        ("64:ff9b:1::a00:1", False), ("64:ff9b:1:ffff::101:101", False), ("64:ff9b::c000:1", False),
        ("::7f00:1", False), ("::10.0.0.1", False), ("::8.8.8.8", False), ("::ffff:0:10.0.0.1", False),
        ("::ffff:192.0.0.1", False), ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False), ("2001:20::1", False),
        ("2001:db8::1", False), ("3fff::1", False), ("5f00::1", False), ("100::1", False), ("fec0::1", False),
        ("2002:a00:1::1", False), ("2002:c0a8:101::", False), ("2002:808:808::1", True), ("4000::1", False),
        ("2606:4700::5efe:a00:1", False), ("2606:4700::200:5efe:7f00:1", False), ("2606:4700::5efe:808:808", True),
        ("2a00:1450:4001:81b::200e", True), ("2001:4860:4860::8888", True), ("2400:cb00::1", True),
    ],
)  # fmt: skip
def test_private_addresses_are_distinguished_from_public_ones(ip: str, is_public: bool) -> None:
    assert runner.is_public(ip) is is_public
