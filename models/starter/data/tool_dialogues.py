"""Function-calling dialogues: offer, decide, call, read the output, report; or ask back; or just answer."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from models.starter.data import tool_formats as formats
from models.starter.data.document import Dialogue, Document
from models.starter.data.everyday_tools import everyday_call
from models.starter.data.smalltalk import plain_exchange
from models.starter.data.tool_requests import Request, ask_back, random_output, random_request
from models.starter.data.tool_schemas import Tool, random_tool, random_value
from models.starter.data.words import Words

CALL, NO_CALL, TWO_CALLS, ASK_BACK = "call", "no_call", "two_calls", "ask_back"
LAST_LINES = (formats.RETURN_ONLY, "", "Return a JSON function call when a tool is needed, otherwise answer.")


@dataclass(frozen=True)
class ToolTask:
    """One user request with offered tools. calls is empty if the answer is text."""

    kind: str
    chinese: bool
    definitions: list[dict[str, Any]]
    user: str
    calls: list[tuple[str, dict[str, Any]]]
    answer: str
    outputs: list[dict[str, Any]]
    request: Request | None = None


def random_tools(words: Words, chinese: bool, count: int, taken: set[str]) -> list[Tool]:
    return [random_tool(words, chinese, taken) for _ in range(count)]


def random_task(words: Words, chinese: bool, kind: str, max_tools: int = 6) -> ToolTask:
    """A task of this kind; tools, names and values are from the side of the split that `words` uses."""
    rng = words.rng
    taken: set[str] = set()
    count = rng.randrange(1, max_tools + 1) if rng.random() < 0.7 else rng.randrange(1, 3)
    tools = random_tools(words, chinese, count, taken)
    definitions = [tool.definition() for tool in tools]
    if kind == NO_CALL:
        user, answer = plain_exchange(rng, chinese, words.held_out)
        return ToolTask(kind, chinese, definitions, user, [], answer, [])
    if kind == CALL and rng.random() < 0.35 and not words.held_out:
        return everyday_task(words, chinese, definitions)
    if kind == TWO_CALLS:
        return two_call_task(words, chinese, tools, definitions)
    request = random_request(rng.choice(tools), words, chinese, leave_out=kind == ASK_BACK)
    if request.missing is not None:
        return ToolTask(
            ASK_BACK, chinese, definitions, request.text, [], ask_back(request, words, chinese), [], request
        )
    output, report = random_output(request, words, chinese)
    return ToolTask(
        CALL,
        chinese,
        definitions,
        request.text,
        [(request.tool.name, request.arguments)],
        report,
        [output],
        request,
    )


def everyday_task(words: Words, chinese: bool, others: list[dict[str, Any]]) -> ToolTask:
    rng = words.rng
    call = everyday_call(words, chinese)
    definitions = [d for d in others[: rng.randrange(4)] if d["name"] != call.definition["name"]]
    for _ in range(rng.choice((0, 0, 1, 2))):
        other = everyday_call(words, chinese).definition
        if all(other[key] != d[key] for d in (*definitions, call.definition) for key in ("name", "description")):
            definitions.append(other)
    definitions.insert(rng.randrange(len(definitions) + 1), call.definition)
    return ToolTask(
        CALL,
        chinese,
        definitions,
        call.text,
        [(call.definition["name"], call.arguments)],
        call.report,
        [call.output],
    )


def two_call_task(words: Words, chinese: bool, tools: list[Tool], definitions: list[dict[str, Any]]) -> ToolTask:
    """Two different tools, or one tool with two sets of values."""
    rng = words.rng
    first, second = rng.sample(tools, 2) if len(tools) > 1 else (tools[0], tools[0])
    requests = [random_request(tool, words, chinese) for tool in (first, second)]
    a, b = (request.text.rstrip(".?。") for request in requests)
    if chinese:
        user = f"{a}，然后{b}。"
    else:
        user = (
            a
            + rng.choice((" and ", ", then ", ". Also ", ". And "))
            + (b[0].lower() + b[1:] if not b.startswith("I ") else b)
            + "."
        )
    outputs, reports = zip(*(random_output(request, words, chinese) for request in requests), strict=True)
    calls = [(request.tool.name, request.arguments) for request in requests]
    return ToolTask(TWO_CALLS, chinese, definitions, user, calls, ("" if chinese else " ").join(reports), list(outputs))


def system_text(task: ToolTask, form: str, rng: random.Random) -> str:
    last_line = rng.choices(LAST_LINES, (6, 1, 3))[0]
    text = formats.tools_text(
        task.definitions, form, described=rng.random() < 0.6, spaced=rng.random() < 0.4, last_line=last_line
    )
    if form != formats.LEGACY and rng.random() < 0.15:
        text = (
            rng.choice(("You are a helpful assistant.", "You are Roost.", "Answer briefly.", "你是一个有用的助手。"))
            + "\n"
            + text
        )
    return text


def tool_document(rng: random.Random, chinese: bool) -> Document:
    """A training dialogue of one to three requests with the same tools."""
    words = Words(rng)
    kind = rng.choices((CALL, NO_CALL, TWO_CALLS, ASK_BACK), (52, 28, 10, 10))[0]
    form = rng.choices((formats.COMPACT, formats.JSON_LIST, formats.LEGACY), (55, 35, 10))[0]
    few = form != formats.COMPACT
    if form == formats.LEGACY and kind == TWO_CALLS:
        kind = CALL
    task = random_task(words, chinese, kind, max_tools=3 if few else 6)
    dialogue = Dialogue(rng, system_text(task, form, rng))
    if rng.random() < 0.15:
        user, answer = plain_exchange(rng, chinese, False)
        dialogue.user(user).assistant(answer)
    dialogue.user(task.user)
    if task.kind == NO_CALL:
        dialogue.assistant(task.answer)
    elif task.kind == ASK_BACK:
        ask_then_call(dialogue, task, form, words)
    else:
        write_call(dialogue, task, form, rng)
    if rng.random() < 0.12:
        user, answer = plain_exchange(rng, chinese, False)
        dialogue.user(user).assistant(answer)
    return dialogue.document()


def write_call(dialogue: Dialogue, task: ToolTask, form: str, rng: random.Random) -> None:
    text = formats.call_text(task.calls, form)
    forced = form != formats.LEGACY and rng.random() < 0.35
    dialogue.assistant(text, prefix=" ```json" if forced else "")
    if rng.random() < 0.25:
        return  # the dialogue ends at the call, like every real generation
    if form == formats.LEGACY:
        dialogue.observation(json.dumps(task.outputs[0], ensure_ascii=False))
    else:
        output = task.outputs[0] if len(task.outputs) == 1 else task.outputs
        spaced = rng.random() < 0.5
        dialogue.user(
            "Function output:\n" + (json.dumps(output, ensure_ascii=False) if spaced else formats.compact_json(output))
        )
    dialogue.assistant(task.answer)


def ask_then_call(dialogue: Dialogue, task: ToolTask, form: str, words: Words) -> None:
    """The user gives the missing value; the call follows with all arguments in schema order."""
    rng, request = words.rng, task.request
    dialogue.assistant(task.answer)
    assert request is not None and request.missing is not None
    if rng.random() < 0.3:
        return
    value = random_value(request.missing, words, task.chinese)
    given = {**request.arguments, request.missing.name: value}
    arguments = {p.name: given[p.name] for p in request.tool.parameters if p.name in given}
    dialogue.user(str(value) + rng.choice(("", "。" if task.chinese else ".")))
    output, report = random_output(request, words, task.chinese)
    called = ToolTask(CALL, task.chinese, task.definitions, "", [(request.tool.name, arguments)], report, [output])
    write_call(dialogue, called, form, rng)
