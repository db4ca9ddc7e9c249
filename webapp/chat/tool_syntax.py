"""Where calls stand in a model's text: what opens one, where its body ends, and what the body says.

Each dialect has a :class:`CallSyntax`; :mod:`webapp.chat.tool_parser` runs it over a stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from webapp.chat.lenient_json import read_members, read_value

MAX_NAME_CHARS = 64


@dataclass(frozen=True)
class ReadCall:
    """``arguments`` are values, not text."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Opening:
    """``begin`` is where the text ends that is sure to be no call. ``body`` is where a call's body begins; None while
    that cannot be told (more text must come) or where there is none (``begin`` is the end)."""

    begin: int
    body: int | None = None
    name: str = ""


@dataclass(frozen=True)
class CallSyntax:
    """``find(text, is_start, is_end)`` gives the first opening; ``read(name, body)`` its calls, None when it holds
    none; ``closer`` is what may stand behind the last body; ``repeats`` whether bodies may follow each other.

    ``opening`` is how the dialect's grammar begins a call, with ``{name}`` where the name comes before the body;
    ``is_keyword`` whether arguments then stand in brackets as ``"key"= value``. Both are of use only where the grammar
    holds the model: what may be found is more.
    """

    find: Callable[[str, bool, bool], Opening]
    read: Callable[[str, str], list[ReadCall] | None]
    closer: str
    opening: str
    repeats: bool = True
    is_keyword: bool = False


def find_fence(text: str, is_start: bool, is_end: bool) -> Opening:
    """A fence of JSON anywhere, or JSON as the very first thing of the answer."""
    if is_start:
        body = len(text) - len(text.lstrip())
        if text[body:].startswith(("{", "[")):
            return Opening(0, body)
    for match in re.finditer(r"`+", text):
        begin = max(match.start(), match.end() - 3)
        if match.end() - begin < 3 or match.end() == len(text):
            if match.end() == len(text) and not is_end:
                return Opening(begin)
            continue
        found = FENCE.match(text, begin)
        if found and found[1]:
            return Opening(begin, found.start(1))
        if not is_end and _may_become_fence(text[begin:]):
            return Opening(begin)
    return Opening(len(text))


def find_tag(text: str, is_start: bool, is_end: bool) -> Opening:
    """``<tool_call>`` anywhere."""
    for found in re.finditer(r"<tool_call>\s*", text):
        following = text[found.end() : found.end() + 1]
        if following in ("{", "["):
            return Opening(found.start(), found.end())
        if not following and not is_end:
            return Opening(found.start())
    return Opening(len(text) if is_end else len(text) - _partial_end(text, "<tool_call>"))


LEGACY = re.compile(r"(?<![\w.-])([\w.-]{1,64})\s{0,8}```[\w \t]{0,16}\n?\s{0,8}tool_call\s{0,8}(?=\()")
LEGACY_BEGUN = re.compile(r"(?<![\w.-])[\w.-]+(\s{0,8}(`{1,3}([\w \t]{0,16}(\n?\s{0,8}[tool_ca]{0,9}\s{0,8})?)?)?)?\Z")


def find_legacy(text: str, is_start: bool, is_end: bool) -> Opening:
    """``name``, a fence, ``tool_call(``: RWKV-Runner's form. Any word may be the name, until what follows it tells."""
    found = LEGACY.search(text)
    if found:
        return Opening(found.start(), found.end(), found[1])
    begun = None if is_end else LEGACY_BEGUN.search(text)
    return Opening(begun.start() if begun else len(text))


def read_json_calls(_name: str, body: str) -> list[ReadCall] | None:
    """``{"name": …, "arguments": {…}}``, or a list of them; OpenAI's own wrapping is read too."""
    value = read_value(body)
    calls = [_json_call(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if calls and all(calls) else None


def read_keyword_call(name: str, body: str) -> list[ReadCall] | None:
    """``("key"= value, key=value)`` with values as JSON or Python writes them."""
    try:
        return [ReadCall(name, read_members(body))]
    except ValueError:
        return None


def _json_call(item: object) -> ReadCall | None:
    if not isinstance(item, dict):
        return None
    item = item["function"] if isinstance(item.get("function"), dict) else item
    name, arguments = item.get("name"), item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = read_value(arguments)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or not isinstance(arguments, dict):
        return None
    return ReadCall(name, arguments)


FENCE = re.compile(r"```(?:json|tool_call|tool_code)?[ \t]*\n?\s*([{\[])?")


def _may_become_fence(text: str) -> bool:
    return any(not text[len(head) :].strip() for head in _heads(text)) or bool(
        re.fullmatch(r"```(j|js|jso|t|to|too|tool|tool_|tool_c|tool_ca|tool_cal|tool_co|tool_cod)?", text)
    )


def _heads(text: str) -> list[str]:
    return [head for head in ("```json", "```tool_call", "```tool_code", "```") if text.startswith(head)]


def _partial_end(text: str, mark: str) -> int:
    return next((length for length in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:length])), 0)


FENCED = CallSyntax(find_fence, read_json_calls, "```", "```json\n")
HERMES = CallSyntax(find_tag, read_json_calls, "</tool_call>", "<tool_call>\n")
RUNNER_LEGACY = CallSyntax(
    find_legacy, read_keyword_call, "```", "{name}\n```python\ntool_call", repeats=False, is_keyword=True
)
