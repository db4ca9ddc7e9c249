"""Where calls stand in a model's text: what opens one, where its body ends, and what the body says.

Each dialect has a :class:`CallSyntax`; :mod:`webapp.chat.tool_parser` runs it over a stream. Bodies are followed
bracket by bracket with their strings, so that fences, tags and brackets inside an argument end nothing.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_NAME_CHARS = 64
BRACKETS = {"{": "}", "[": "]", "(": ")"}
WORDS = {"true": True, "false": False, "null": None, "none": None}


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
    none; ``closer`` is what may stand behind the last body; ``repeats`` whether bodies may follow each other."""

    find: Callable[[str, bool, bool], Opening]
    read: Callable[[str, str], list[ReadCall] | None]
    closer: str
    repeats: bool = True


def body_length(text: str) -> int | None:
    """Length of the bracketed value ``text`` begins with; None while it is not whole. 0 when brackets do not match."""
    stack: list[str] = []
    quote = ""
    is_escaped = False
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote and not is_escaped else quote
            is_escaped = character == "\\" and not is_escaped
        elif character == '"' or (character == "'" and _opens_string(text, index)):
            quote = character
        elif character in BRACKETS:
            stack.append(BRACKETS[character])
        elif character in BRACKETS.values():
            if not stack or stack.pop() != character:
                return 0
            if not stack:
                return index + 1
    return None


def find_fence(text: str, is_start: bool, is_end: bool) -> Opening:
    """A fence of JSON at the beginning of a line, or JSON as the very first thing of the answer."""
    if is_start:
        body = len(text) - len(text.lstrip())
        if text[body:].startswith(("{", "[")):
            return Opening(0, body)
    for match in re.finditer(r"(?:^|\n|(?<=\s))(`{1,3})", text):
        begin = match.start(1)
        if len(match[1]) < 3:
            if match.end() == len(text) and not is_end:
                return Opening(begin)
            continue
        found = re.compile(r"```(?:json|tool_call|tool_code)?[ \t]*\n?\s*([{\[])?").match(text, begin)
        if found and found[1]:
            return Opening(begin, found.start(1))
        if not is_end and _may_become_fence(text[begin:]):
            return Opening(begin)
    return Opening(len(text))


def find_tag(text: str, is_start: bool, is_end: bool) -> Opening:
    """``<tool_call>`` anywhere."""
    found = re.search(r"<tool_call>\s*", text)
    if found and found.end() < len(text):
        if text[found.end()] in "{[":
            return Opening(found.start(), found.end())
        following = find_tag(text[found.end() :], False, is_end)
        return Opening(found.end() + following.begin, None if following.body is None else found.end() + following.body)
    if found:
        return Opening(len(text) if is_end else found.start())
    return Opening(len(text) if is_end else len(text) - _partial_end(text, "<tool_call>"))


LEGACY = re.compile(r"(?:(?<=^)|(?<=\n))[ \t]*([\w.-]{1,64})\s*```[\w \t]*\n?\s*tool_call\s*(?=\()")
LEGACY_BEGUN = re.compile(r"(?:^|(?<=\n))[ \t]*[\w.-]{1,64}(\s*(`{1,3}([\w \t]*(\n\s*[tool_ca]{0,9}\s*)?)?)?)?\Z")


def find_legacy(text: str, is_start: bool, is_end: bool) -> Opening:
    """``name``, a fence, ``tool_call(``: RWKV-Runner's form."""
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
    arguments: dict[str, Any] = {}
    for part in split_top_level(body[1:-1]):
        pair = re.match(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([\w.-]+))\s*[=:]\s*""", part, re.DOTALL)
        if pair is None:
            return None
        key = next(group for group in pair.groups() if group is not None)
        arguments[key] = read_value(part[pair.end() :].strip())
    return [ReadCall(name, arguments)]


def read_value(text: str) -> Any:
    """JSON, else a Python literal, else a bare word or the text as it stands."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
        return value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return WORDS.get(text.lower(), text)


def split_top_level(text: str) -> list[str]:
    """At the commas outside strings and brackets; blank pieces are dropped."""
    pieces, depth, quote, is_escaped, begin = [], 0, "", False, 0
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote and not is_escaped else quote
            is_escaped = character == "\\" and not is_escaped
        elif character == '"' or (character == "'" and _opens_string(text, index)):
            quote = character
        elif character in BRACKETS:
            depth += 1
        elif character in BRACKETS.values():
            depth -= 1
        elif character == "," and depth == 0:
            pieces.append(text[begin:index])
            begin = index + 1
    return [piece for piece in (*pieces, text[begin:]) if piece.strip()]


def _opens_string(text: str, index: int) -> bool:
    """An apostrophe inside a word is none."""
    before = text[:index].rstrip()[-1:]
    return before == "" or before in "([{,=:"


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


def _may_become_fence(text: str) -> bool:
    return any(re.fullmatch(r"[ \t]*\n?\s*", text[len(head) :]) for head in _heads(text)) or bool(
        re.fullmatch(r"```(j|js|jso|t|to|too|tool|tool_|tool_c|tool_ca|tool_cal|tool_co|tool_cod)?", text)
    )


def _heads(text: str) -> list[str]:
    return [head for head in ("```json", "```tool_call", "```tool_code", "```") if text.startswith(head)]


def _partial_end(text: str, mark: str) -> int:
    return next((length for length in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:length])), 0)


FENCED = CallSyntax(find_fence, read_json_calls, "```")
HERMES = CallSyntax(find_tag, read_json_calls, "</tool_call>")
RUNNER_LEGACY = CallSyntax(find_legacy, read_keyword_call, "```", repeats=False)
