"""Training dialogues with one set of tools: several requests in a row, so that few tokens are spent on schemas.

Different kinds of request use the same tools: a call next to the same request with a missing value teaches asking back.
Evaluation makes its cases with `tool_dialogues.random_task` and is independent of this.
"""

from __future__ import annotations

import json
import random
from typing import Any

from models.starter.data import tool_formats as formats
from models.starter.data.document import Dialogue, Document
from models.starter.data.smalltalk import plain_exchange
from models.starter.data.tool_dialogues import (
    ASK_BACK,
    CALL,
    NO_CALL,
    TWO_CALLS,
    ToolTask,
    everyday_task,
    system_text,
    two_call_task,
)
from models.starter.data.tool_requests import Request, ask_back, random_output, random_request
from models.starter.data.tool_schemas import Tool, random_tool, random_value
from models.starter.data.wide_words import WideWords
from models.starter.data.words import Words

NO_TOOL = "no_tool"
KINDS = {CALL: 48, NO_CALL: 15, TWO_CALLS: 10, ASK_BACK: 24, NO_TOOL: 3}
LEGACY_KINDS = {CALL: 60, NO_CALL: 20, ASK_BACK: 20}
TOKEN_BUDGET = 440  # estimated; a window has 512
OUTPUT_SHOWN = 0.3  # share of calls that are followed by the function's output and a report


def estimated_tokens(text: str) -> int:
    """An estimate: 3 ASCII characters or one other character per token."""
    others = sum(ord(character) > 127 for character in text)
    return (len(text) - others) // 3 + others


def related_tools(words: Words, chinese: bool, count: int) -> list[Tool]:
    """Tools of which some share a verb or a noun, so that the whole name must be read."""
    taken: set[str] = set()
    tools = [random_tool(words, chinese, taken)]
    while len(tools) < count:
        candidate = random_tool(words, chinese, taken)
        for _ in range(30 if words.rng.random() < 0.5 else 0):
            if any(candidate.verb == tool.verb or candidate.noun == tool.noun for tool in tools):
                break
            taken.discard(f"{candidate.verb[0]} {candidate.noun[0]}")
            candidate = random_tool(words, chinese, taken)
        tools.append(candidate)
    return tools


def session_document(rng: random.Random, chinese: bool) -> Document:
    """One to about six requests with the same tools, within a window."""
    words: Words = WideWords(rng)
    form = rng.choices((formats.COMPACT, formats.JSON_LIST, formats.LEGACY), (54, 40, 6))[0]
    count = rng.choice((1, 1, 2, 2, 3, 4, 5, 6) if form == formats.COMPACT else (1, 1, 2, 2, 3))
    tools = related_tools(words, chinese, count)
    definitions = [tool.definition() for tool in tools]
    everyday = everyday_task(words, chinese, definitions) if rng.random() < 0.3 else None
    offered = everyday.definitions if everyday else definitions
    tools = [tool for tool in tools if any(d["name"] == tool.name for d in offered)]
    system = system_text(ToolTask(CALL, chinese, offered, "", [], "", []), form, rng)
    dialogue, first = Dialogue(rng, system), everyday
    while first or (tools and room_left(dialogue)):
        if first:
            dialogue.user(first.user)
            write_call(dialogue, first, form, rng)
            first = None
        else:
            write_turn(dialogue, tools, offered, form, words, chinese)
    return dialogue.document()


def room_left(dialogue: Dialogue) -> bool:
    """Whether another turn fits; the first one always does."""
    used = sum(estimated_tokens(segment.text) for segment in dialogue.segments)
    return len(dialogue.segments) < 2 or (used < TOKEN_BUDGET - 110 and dialogue.rng.random() < 0.9)


def write_turn(
    dialogue: Dialogue, tools: list[Tool], offered: list[dict[str, Any]], form: str, words: Words, chinese: bool
) -> None:
    rng = words.rng
    shares = LEGACY_KINDS if form == formats.LEGACY else KINDS
    kind = rng.choices(list(shares), list(shares.values()))[0]
    if kind == NO_CALL:
        user, answer = plain_exchange(rng, chinese, False)
        dialogue.user(user).assistant(answer)
    elif kind == NO_TOOL:
        write_refusal(dialogue, offered, words, chinese)
    elif kind == TWO_CALLS:
        task = two_call_task(words, chinese, tools, offered)
        dialogue.user(task.user)
        write_call(dialogue, task, form, rng)
    else:
        write_request(dialogue, tools, offered, kind, form, words, chinese)


def write_request(
    dialogue: Dialogue,
    tools: list[Tool],
    offered: list[dict[str, Any]],
    kind: str,
    form: str,
    words: Words,
    chinese: bool,
) -> None:
    """A call; for the kind that asks back, if a tool allows it, the question and then usually the call."""
    rng = words.rng
    request = random_request(rng.choice(tools), words, chinese, leave_out=kind == ASK_BACK)
    for _ in range(6 if kind == ASK_BACK else 0):
        if request.missing is not None:
            break
        request = random_request(rng.choice(tools), words, chinese, leave_out=True)
    dialogue.user(request.text)
    if request.missing is not None:
        dialogue.assistant(ask_back(request, words, chinese))
        if rng.random() < 0.5:
            return
        request = completed(dialogue, request, words, chinese)
    output, report = random_output(request, words, chinese)
    calls = [(request.tool.name, request.arguments)]
    write_call(dialogue, ToolTask(CALL, chinese, offered, "", calls, report, [output]), form, rng)


def completed(dialogue: Dialogue, request: Request, words: Words, chinese: bool) -> Request:
    """The user gives the missing value; arguments are in schema order."""
    assert request.missing is not None
    value = random_value(request.missing, words, chinese)
    given = {**request.arguments, request.missing.name: value}
    dialogue.user(str(value) + words.rng.choice(("", "。" if chinese else ".")))
    arguments = {p.name: given[p.name] for p in request.tool.parameters if p.name in given}
    return Request("", request.tool, arguments)


def write_refusal(dialogue: Dialogue, offered: list[dict[str, Any]], words: Words, chinese: bool) -> None:
    """A request for a tool that is not offered."""
    other = random_tool(words, chinese, set())
    while any(d["name"] == other.name or d["description"] == other.description for d in offered):
        other = random_tool(words, chinese, set())
    dialogue.user(random_request(other, words, chinese).text)
    dialogue.assistant("我没有可以做这件事的工具。" if chinese else "I have no tool for that.")


def write_call(dialogue: Dialogue, task: ToolTask, form: str, rng: random.Random) -> None:
    forced = form != formats.LEGACY and rng.random() < 0.3
    dialogue.assistant(formats.call_text(task.calls, form), prefix=" ```json" if forced else "")
    if rng.random() > OUTPUT_SHOWN:
        return
    output = task.outputs[0] if len(task.outputs) == 1 else task.outputs
    text = json.dumps(output, ensure_ascii=False) if rng.random() < 0.5 else formats.compact_json(output)
    dialogue.observation(text) if form == formats.LEGACY else dialogue.user("Function output:\n" + text)
    dialogue.assistant(task.answer)
