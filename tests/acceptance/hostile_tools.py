"""Malicious requests, definitions, results and addresses, end to end: each is refused or limited, soon and with a
reason.

    python -m tests.acceptance.hostile_tools

Prints a table as Markdown; `test_hostile_tools.py` runs the same cases. After each case the server must answer an
ordinary request.
"""

from __future__ import annotations

import json
import re
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema

from tests.acceptance.hostile_pages import (
    html_from_servers,
    html_in_a_call,
    html_in_definitions,
    html_in_names,
    html_in_the_bench,
    said_in,
    waiting_call,
)
from tests.acceptance.hostile_site import BIG, Site
from tests.wording import pattern, says
from webapp.tools.runner import MAX_RESULT_CHARS

BOUND_S = 60.0
"""For a whole case, on a slow and busy machine; a case without a limit would take longer on any machine."""
Told = str
"""The outcome of a case: "refused: …", "bounded: …" or "works: …", with the server's text."""


@dataclass(frozen=True)
class Case:
    title: str
    run: Callable[[Site], Told]


def tool(parameters: Any, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def refused(answer: tuple[int, Any], param: str) -> Told:
    status, body = answer
    assert status == 400 and body["error"]["param"] == param, (status, body)
    return f"refused: {body['error']['message']}"


def refused_tool(parameters: Any, param: str = "tools[0]") -> Callable[[Site], Told]:
    """Over the API; nothing is queued."""
    return lambda site: refused(site.ask(tools=[tool(parameters)], tool_choice="required"), param)


def loosened(parameters: Any, param: str = "tools[0]", name: str = "f") -> Callable[[Site], Told]:
    """Parts that a grammar cannot express are left out, and the answer ends; a tool with ``strict`` is refused for
    them."""

    def run(site: Site) -> Told:
        status, answer = site.ask(tools=[tool(parameters, name)], tool_choice="required")
        assert status == 200 and answer["choices"][0]["finish_reason"] in ("tool_calls", "length"), (status, answer)
        strict = tool(parameters, name)
        strict["function"]["strict"] = True
        return "bounded: left free; strict is " + refused(site.ask(tools=[strict], tool_choice="required"), param)

    return run


def named(name: str) -> Callable[[Site], Told]:
    """A name that no API documents, but that is harmless: the tool is called by it."""

    def run(site: Site) -> Told:
        status, answer = site.ask(tools=[tool({}, name)], tool_choice="required", parallel_tool_calls=False)
        [choice] = answer["choices"]
        assert status == 200 and choice["finish_reason"] in ("tool_calls", "length"), (status, answer)
        calls = choice["message"].get("tool_calls") or []
        assert {call["function"]["name"] for call in calls} <= {name}, calls
        return f"works: {len(calls)} calls of {name[:20]}"

    return run


def called(parameters: Any, written: str = "", plain: Any = None) -> Callable[[Site], Told]:
    """A model that writes anything is constrained to the schema, and its call is valid. ``plain`` is an equivalent
    schema that can be checked easily."""

    def run(site: Site) -> Told:
        site.force(f"```json\n{written}\n```" if written else "")
        for seed in range(1 if written else 5):
            _, answer = site.ask(tools=[tool(parameters)], tool_choice="required", parallel_tool_calls=False, seed=seed)
            [choice] = answer["choices"]
            if choice["finish_reason"] == "tool_calls":
                arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
                jsonschema.validate(json.loads(arguments), plain or parameters)
                return f"works: called with {arguments[:60]}"
        assert choice["finish_reason"] == "length", answer
        return "bounded: the answer ends at its limit of tokens"

    return run


def endless(site: Site) -> Told:
    """Every node needs another one: no finite text is valid."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
    parameters = {"$defs": {"node": node}, **schema(next={"$ref": "#/$defs/node"})}
    _, answer = site.ask(tools=[tool(parameters)], tool_choice="required")
    assert answer["choices"][0]["finish_reason"] == "length", answer
    return "bounded: the answer ends at its limit of tokens"


def multiplying() -> dict[str, Any]:
    levels = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(30)}
    return {"$defs": {**levels, "a30": {"type": "string"}}, **schema(x={"$ref": "#/$defs/a0"})}


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        found = schema(a=found)
    return found


def says_one(said: str, key: str) -> bool:
    """Whether it contains that text of the catalogue, with any values."""
    return re.search(pattern(key), said) is not None


def checked(parameters: dict[str, Any], arguments: Any, key: str) -> Callable[[Site], Told]:
    """A call of a tool of this chat, tested from its form: Roost's own check of the arguments."""

    def run(site: Site) -> Told:
        said = site.check_arguments(parameters, json.dumps(arguments))
        assert says_one(said, key), said
        return f"refused: {said}"

    return run


def address(url: str, key: str) -> Callable[[Site], Told]:
    def run(site: Site) -> Told:
        said = site.call_address(url.format(port=site.bad_port))
        assert says_one(said, f"reason.tools.{key}") and "secret of this machine" not in said, said
        return f"refused: {said}"

    return run


def name_leading_inside(site: Site) -> Told:
    """As if a public name resolved to an address in this network."""
    rows = [(2, 1, 6, "", ("169.254.169.254", 80)), (10, 1, 6, "", ("::ffff:10.0.0.1", 80, 0, 0))]
    resolve = socket.getaddrinfo

    def resolved(host: Any, *given: Any, **named: Any) -> Any:
        return rows if host == "inside.example" else resolve(host, *given, **named)

    with patch("socket.getaddrinfo", resolved):
        return address("http://inside.example/", "private_address")(site)


def with_tools(tools: Any, param: str, **more: Any) -> Callable[[Site], Told]:
    return lambda site: refused(site.ask(tools=tools, **more), param)


def with_messages(messages: list[dict[str, Any]], param: str | None) -> Callable[[Site], Told]:
    def run(site: Site) -> Told:
        status, answer = site.ask(messages=[{"role": "user", "content": "Hello"}, *messages])
        assert status == 400 and answer["error"]["param"] == param, answer
        return f"refused: {answer['error']['message']}"

    return run


def call_message(arguments: str) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result_message(content: str, call_id: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def odd_history(arguments: str) -> Callable[[Site], Told]:
    """Arguments that a client stored are written back into the prompt."""

    def run(site: Site) -> Told:
        messages = [{"role": "user", "content": "Hello"}, call_message(arguments), result_message("r")]
        status, answer = site.ask(messages=messages, tools=[tool({})], max_tokens=5)
        assert status == 200, answer
        return "works: what is no JSON goes back as text"

    return run


def other_apis(site: Site) -> Told:
    loop = {"$defs": {"a": {"$ref": "#/$defs/a"}}, **schema(x={"$ref": "#/$defs/a"})}
    hello = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
    asked = {**hello, "tools": [{"name": "f", "input_schema": loop}]}
    status, anthropic = site.post("/v1/messages", asked)
    assert status == 200 and anthropic["stop_reason"] in ("tool_use", "max_tokens"), anthropic
    asked["tools"][0]["strict"] = True
    status, anthropic = site.post("/v1/messages", asked)
    assert status == 400 and says_one(anthropic["error"]["message"], "reason.tools.broken_reference"), anthropic
    status, ollama = site.post("/api/chat", {**hello, "tools": [tool({}, f"t{n}") for n in range(2_000)]})
    assert status == 400 and says(ollama["error"], "reason.api.there_are_too_many", found=2_000, limit=128), ollama
    return f"refused: {ollama['error']}"


def typed_result(length: int) -> Callable[[Site], Told]:
    """The user, or a script with the user's rights, enters it for a call that waits in a chat."""

    def run(site: Site) -> Told:
        site.force("Thank you.")
        with waiting_call(site) as (store, message_id):
            chat_id = store.message(message_id).chat_id
            fields = {"chat": chat_id, "call": "c1", "result": "x" * length}
            status, page = site.form("/chat/do", do=f"give_result:{message_id}", **fields)
            kept = store.message(message_id).message.metadata.get("calls", {}).get("c1", {}).get("result", "")
        if not kept:
            assert status == 400, (status, said_in(page))
            return f"refused: {said_in(page)}"
        assert len(kept) < MAX_RESULT_CHARS + 100
        return f"bounded: the model reads {MAX_RESULT_CHARS} characters and {kept[MAX_RESULT_CHARS:].strip()}"

    return run


def long_fixed_value(site: Site) -> Told:
    status, page = site.form("/tools", name="f", behaviour="fixed", fixed_value="x" * 150_000, approval="never")
    assert status == 422 and says(page, "reason.tools.too_many_characters", limit=100_000)
    return "refused: it has more than 100000 characters"


LOOP = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, **schema(x={"$ref": "#/$defs/a"})}
TREE = {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"$ref": "#"}}, "required": ["value"]}
TREE_CALL = '{"name":"f","arguments":{"value":1,"next":{"value":2,"next":{"value":3}}}}'
MANY = [f"value {number}" for number in range(10_000)]
EVIL_NAMES = ("two words", "", "x" * 257, "näme", '"};DROP', "<b>", "a\nb")
ODD_NAMES = ("x" * 65, "../../etc", "a.b")
PARAMETERS = "tools[0].function.parameters"

CASES = (
    Case("a schema that refers to itself", called(TREE, TREE_CALL)),
    Case("a schema only an endless text fits", endless),
    Case("references in a circle", loosened(LOOP)),
    Case("a reference to nothing", loosened(schema(x={"$ref": "#/$defs/nobody"}))),
    Case("a reference to another document", loosened(schema(x={"$ref": "https://evil.example/s.json"}))),
    Case("30 levels of two references each (2^30 steps)", called(multiplying(), plain=schema(x={"type": "string"}))),
    Case("the same, in the check of arguments", checked(
        multiplying(), {"x": "text"}, "reason.tools.schema_cannot_be_followed")),
    Case("10,000 enum values", loosened(schema(x={"enum": MANY}))),
    Case("10,000 enum values in response_format", lambda site: refused(site.ask(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": MANY}}}), None)),
    Case("an enum of the wrong type", loosened(schema(x={"type": "integer", "enum": ["a", "b"]}), PARAMETERS)),
    Case("an enum that is no list", loosened(schema(x={"enum": "abc"}))),
    Case("an empty enum", loosened(schema(x={"enum": []}), PARAMETERS)),
    Case("the pattern ^(a+)+$ in a grammar", called(schema(x={"type": "string", "pattern": "^(a+)+$"}))),
    Case("the pattern (x+x+)+y in a grammar", called(schema(x={"type": "string", "pattern": "(x+x+)+y"}))),
    Case("the pattern ^(a+)+$ in the check of arguments", checked(
        schema(x={"type": "string", "pattern": "^(a+)+$"}), {"x": "a" * 40 + "b"}, "reason.tools.does_not_match")),
    Case("the same pattern for names", checked(
        {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
        {"a" * 40 + "b": 1}, "reason.tools.unknown_property")),
    Case("the pattern ((a{1000}){1000}){1000}", lambda site: refused(
        site.ask(tools=[tool(schema(x={"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}))],
                 tool_choice="required"), None)),
    Case("a pattern that looks ahead", loosened(schema(x={"type": "string", "pattern": "(?=a)b"}), PARAMETERS)),
    Case("a schema of 200 levels", refused_tool(nested(200))),
    Case("a schema of 5,000 parameters", refused_tool(schema(**{f"p{n}": {} for n in range(5_000)}))),
    Case("a body nested 100,000 levels deep", lambda site: refused(
        site.post("/v1/chat/completions", b'{"tools":[' + b'{"a":' * 100_000), None)),
    Case("a result of 5 MB in a tool message", with_messages([call_message("{}"), result_message("x" * BIG)], None)),
    Case("a result of 5 MB from an HTTP tool", address("http://127.0.0.1:{port}/big", "answer_too_large")),
    Case("a result of 5 MB typed in a chat", typed_result(BIG)),
    Case("a result of 150 KB typed in a chat", typed_result(150_000)),
    Case("a fixed result that is too long", long_fixed_value),
    Case("HTML in arguments and results", html_in_a_call),
    Case("HTML in descriptions and parameters", html_in_definitions),
    Case("HTML from an MCP server", html_from_servers),
    Case("HTML in the tool bench's cases and transcripts", html_in_the_bench),
    Case("HTML in names", html_in_names),
    Case("an HTTP tool at 127.0.0.1 by name", address("http://localhost:{port}/", "private_address")),
    Case("at 10.0.0.1", address("http://10.0.0.1/", "host_not_allowed")),
    Case("at 169.254.169.254", address("http://169.254.169.254/latest/meta-data", "host_not_allowed")),
    Case("at ::1", address("http://[::1]:{port}/", "host_not_allowed")),
    Case("at ::ffff:127.0.0.1", address("http://[::ffff:127.0.0.1]:{port}/", "host_not_allowed")),
    Case("at 2130706433", address("http://2130706433:{port}/", "host_not_allowed")),
    Case("at 0x7f.1", address("http://0x7f.1:{port}/", "host_not_allowed")),
    Case("at an allowed name that leads inside", name_leading_inside),
    Case("redirected to a private address", address("http://127.0.0.1:{port}/redirect", "redirected")),
    Case("with a password in its address", address("http://127.0.0.1:80@evil.example/", "is_not_an_http_address")),
    Case("2,000 tools", with_tools([tool({}, f"t{n}") for n in range(2_000)], "tools")),
    Case("3 MB of tools", with_tools([{**tool({}, f"t{n}"), "x": "y" * 30_000} for n in range(100)], "tools")),
    Case("two tools of one name", with_tools([tool({}), tool({})], "tools[1].function.name")),
    *(Case(f"the tool name {name[:20]!r}", with_tools([tool({}, name)], "tools[0]")) for name in EVIL_NAMES),
    *(Case(f"the odd tool name {name[:20]!r}", named(name)) for name in ODD_NAMES),
    Case("a tool that is text", with_tools(["f"], "tools[0]")),
    Case("tool_choice names an unknown tool", with_tools(
        [tool({})], "tool_choice", tool_choice={"type": "function", "function": {"name": "nobody"}})),
    Case("a result of no call", with_messages([result_message("r", "nobody")], "messages[1].tool_call_id")),
    Case("arguments of 1 MB in a history", with_messages(
        [call_message(json.dumps({"x": "y" * 1_000_000})), result_message("r")], None)),
    Case("arguments of 210 KB to be run", checked(schema(x={}), {"x": "y" * 210_000}, "reason.common.too_long")),
    Case("arguments nested 100,000 deep in a history", odd_history("[" * 100_000)),
    Case("arguments that are no JSON in a history", odd_history('{"x": <|end|>')),
    Case("the same over Anthropic's and Ollama's APIs", other_apis),
)  # fmt: skip


def main() -> None:
    print("| case | ms | what becomes of it |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        try:
            for case in CASES:
                began = time.perf_counter()
                told = case.run(site)
                taken = 1000 * (time.perf_counter() - began)
                assert site.is_alive(), case.title
                said = told.replace("|", "\\|").replace("\n", " ")[:200]
                print(f"| {case.title} | {taken:.0f} | {said} |", flush=True)
        finally:
            site.close()


if __name__ == "__main__":
    main()
