"""How RWKV-Runner v1.9.11 parses 14 forced model outputs, and how Roost parses them in each dialect.

    python -m tests.acceptance.runner_rows

Prints the table as Markdown; `test_runner_rows.py` checks every cell. Each output is forced twice: as a careless model
writes it, with `tool_decoding: free`, and in the dialect's own form, constrained by the grammar; each time the answer
is requested whole and as a stream from `POST /v1/chat/completions`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.web.api.api_server import ApiServer
from webapp.backends.fake import FakeBackend
from webapp.chat.messages import ToolCall
from webapp.chat.tool_dialects import ToolDialect, all_dialects, dialect
from webapp.tokenizer import load_tokenizer

NAME = "get_current_weather"
PREAMBLE = "First I look at a map of the country, then at the sky above it, and only then do I ask the service.\n\n"
PLAIN = "It is 22 degrees in Paris.\n\n"
LEGACY = "runner_legacy"
Calls = tuple[tuple[str, dict[str, Any]], ...]


@dataclass(frozen=True)
class Row:
    """``keywords``: the arguments as a legacy model writes them; ``json``: as a model of a JSON dialect does;
    ``runner``: what RWKV-Runner returned (whole, streamed)."""

    title: str
    runner: tuple[str, str]
    calls: Calls
    keywords: tuple[str, ...] = ()
    json: tuple[str, ...] = ()
    before: str = ""
    quote: str = '"'

    @property
    def text(self) -> str:
        """The answer's text besides the calls."""
        return self.before.strip()

    def expected(self, name: str, is_free: bool) -> Calls:
        """The legacy dialect's grammar allows one call per answer, like the training of its models."""
        return self.calls[:1] if name == LEGACY and not is_free else self.calls


def row(title: str, runner: Sequence[str], arguments: dict[str, Any], keywords: str, written: str, **more: Any) -> Row:
    whole, streamed = runner
    return Row(title, (whole, streamed), ((more.pop("name", NAME), arguments),), (keywords,), (written,), **more)


ROWS = (
    row("two text arguments", ("OK", "OK"), {"location": "Paris", "unit": "celsius"},
        '"location"= "Paris", "unit"= "celsius"', '{"location": "Paris", "unit": "celsius"}'),
    row("single quotes", ("OK", "invalid JSON"), {"location": "Paris"},
        "'location'='Paris'", "{'location': 'Paris'}", quote="'"),
    row("unquoted keys", ("lost: {}", "invalid JSON"), {"location": "Paris"},
        'location="Paris"', '{location: "Paris"}', quote=""),
    row("numbers and booleans", ("lost: {}", "invalid JSON"), {"n": 5, "ok": True},
        '"n"= 5, "ok"= True', '{"n": 5, "ok": True}'),
    row("no arguments", ("OK", "invalid JSON"), {}, "", "{}"),
    row("an apostrophe in a value", ("cut off", "OK"), {"note": "it's fine"},
        '"note"= "it\'s fine"', "{'note': 'it's fine'}"),
    row("equals signs in a value", ("OK", "corrupted"), {"url": "http://a/?b=c", "rule": "f(x) = 2"},
        '"url"= "http://a/?b=c", "rule"= "f(x) = 2"', '{"url": "http://a/?b=c", "rule": "f(x) = 2"}'),
    row("nested lists and objects", ("lost: {}", "invalid JSON"), {"at": {"x": [1, {"y": None}]}, "tags": ["a", "b"]},
        '"at"= {"x": [1, {"y": None}]}, "tags"= [\'a\', "b"]', '{"at": {"x": [1, {"y": None}]}, "tags": [\'a\', "b"]}'),
    row("an empty text", ("key lost", "OK"), {"query": ""}, '"query"= ""', '{"query": ""}'),
    row("an escaped line break", ("escaped twice", "OK"), {"text": "one\ntwo"},
        '"text"= "one\\ntwo"', '{"text": "one\\ntwo"}'),
    row("a name with a hyphen", ("name cut off", "name cut off"), {"city": "Paris"},
        '"city"= "Paris"', '{"city": "Paris"}', name="get-weather"),
    row("a long text before the call", ("text lost", "no call"), {"location": "Paris"},
        '"location"= "Paris"', '{"location": "Paris"}', before=PREAMBLE),
    Row("two calls", ("first only", "first only"), ((NAME, {"location": "Paris"}), ("get-weather", {"city": "Oslo"})),
        ('"location"= "Paris"', '"city"= "Oslo"'), ('{"location": "Paris"}', '{"city": "Oslo"}')),
    Row("an answer without a call", ("OK", "ends in a blank line"), (), before=PLAIN),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The result for one answer, whole or streamed."""

    text: str
    calls: Calls
    reason: str
    is_same: bool
    """Streamed and whole answers are equal, including the text of the arguments."""


def careless(found: Row, name: str) -> str:
    """The text that the model is forced to write."""
    if name == LEGACY:
        made = [
            f"{called}\n```python\ntool_call({keywords})\n```"
            for (called, _), keywords in zip(found.calls, found.keywords, strict=True)
        ]
        return found.before + "\n".join(made)
    objects = [
        "{" + f"{q}name{q}: {q or chr(34)}{called}{q or chr(34)}, {q}arguments{q}: {written}" + "}"
        for (called, _), written in zip(found.calls, found.json, strict=True)
        for q in [found.quote]
    ]
    if name == "hermes":
        return found.before + "\n".join(f"<tool_call>\n{written}\n</tool_call>" for written in objects)
    listed = objects[0] if len(objects) == 1 else f"[{', '.join(objects)}]"
    return found.before + (f"```json\n{listed}\n```" if objects else "")


def exact(found: Row, how: ToolDialect) -> str:
    """The dialect's own form."""
    made = [ToolCall("", name, json.dumps(arguments)) for name, arguments in found.calls]
    return found.before + (how.calls(made) if made else "")


def tools_of(found: Row) -> list[dict[str, Any]]:
    """The row's tools and one that is never called; any value is allowed."""
    called = found.calls or ((NAME, {"location": ""}),)
    return [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": parameters}}}
        for name, parameters in [*((name, {key: {} for key in given}) for name, given in called), ("other", {})]
    ]


class ForcedServer(ApiServer):
    """Its fake model writes the given text in the tokenizer's own tokens, which a grammar expects. The model stays
    loaded, because loading it for each text would compile the grammars of all tools again."""

    def __init__(self, data_dir: Path) -> None:
        self._script: list[int] = []
        token = lambda backend, position: self._script[position] if position < len(self._script) else 0  # noqa: E731
        self._patch = patch.object(FakeBackend, "_script_token", token)
        self._patch.start()
        super().__init__(data_dir, "fake slots=4 script=x", state_cache_bytes=0)

    def force(self, text: str) -> None:
        self._script = load_tokenizer(65536).encode(f" {text}")

    def stop(self) -> None:
        super().stop()
        self._patch.stop()


def outcome(server: ForcedServer, found: Row, name: str, is_free: bool) -> Outcome:
    server.force(careless(found, name) if is_free else exact(found, dialect(name)))
    asked = {
        "messages": [{"role": "user", "content": "What's the weather like?"}], "tools": tools_of(found),
        "max_tokens": 300, "temperature": 0,
        "tool_dialect": name, "tool_decoding": "free" if is_free else "constrained",
    }  # fmt: skip
    status, answer = server.post("/v1/chat/completions", asked)
    assert status == 200, answer
    [choice] = answer["choices"]
    whole = [
        (call["function"]["name"], call["function"]["arguments"]) for call in choice["message"].get("tool_calls", [])
    ]
    text, calls, reason = added_up(server.events("/v1/chat/completions", {**asked, "stream": True}))
    content = choice["message"]["content"] or ""
    is_same = (text, calls, reason) == (content, whole, choice["finish_reason"])
    return Outcome(content, tuple((called, json.loads(arguments)) for called, arguments in whole), reason, is_same)


def added_up(events: list[Any]) -> tuple[str, list[tuple[str, str]], str]:
    text, reason = "", ""
    calls: dict[int, tuple[str, str]] = {}
    for event in events[:-1]:
        [choice] = event["choices"]
        text, reason = text + (choice["delta"].get("content") or ""), choice["finish_reason"] or reason
        for piece in choice["delta"].get("tool_calls") or ():
            called, arguments = calls.get(piece["index"], ("", ""))
            function = piece["function"]
            calls[piece["index"]] = (called + function.get("name", ""), arguments + function["arguments"])
    return text, [calls[index] for index in sorted(calls)], reason


def is_right(found: Row, name: str, is_free: bool, made: Outcome) -> bool:
    calls = found.expected(name, is_free)
    reason = "tool_calls" if calls else "stop"
    return made.is_same and (made.text.strip(), made.calls, made.reason) == (found.text, calls, reason)


def cell(server: ForcedServer, found: Row, name: str) -> str:
    """The result of the row in this dialect: "free / constrained"."""
    rights = [is_right(found, name, is_free, outcome(server, found, name, is_free)) for is_free in (True, False)]
    note = ", first only" if found.expected(name, False) != found.calls else ""
    return " / ".join("OK" if right else "WRONG" for right in rights) + note


def table(server: ForcedServer) -> str:
    names = [how.name for how in all_dialects()]
    heads = ["case", "Runner, whole", "Runner, streamed", *names]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for number, found in enumerate(ROWS):
        cells = [*found.runner, *(cell(server, found, name) for name in names)]
        lines.append(f"| {number + 1} {found.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = ForcedServer(Path(folder))
        try:
            made = table(server)
        finally:
            server.stop()
    print(f"Roost: free / constrained; OK is right, and the same whole and streamed.\n\n{made}")


if __name__ == "__main__":
    main()
