"""Realistic tools (`natural_tools.json`), requested without naming the tool or its parameters.

The random tools (`tool_schemas.py`) teach that a call is copied from its schema; these teach that "Do I need an
umbrella in Oslo?" is about the weather. Names, descriptions and parameter names vary; some phrasings are held out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from models.starter.data import tool_formats as formats
from models.starter.data.document import Dialogue, Document
from models.starter.data.natural_values import ValueMaker, value_table
from models.starter.data.smalltalk import plain_exchange, vary
from models.starter.data.tool_dialogues import CALL, NO_CALL, TWO_CALLS, ToolTask, system_text
from models.starter.data.tool_sessions import NO_TOOL, room_left, write_call
from models.starter.data.wide_words import WideWords
from models.starter.data.words import Words, is_held_out

TABLE_FILE = Path(__file__).with_suffix(".json")
HELD_OUT_PERCENT = 18
KINDS = {CALL: 70, NO_CALL: 15, TWO_CALLS: 8, NO_TOOL: 7}
ROOSTS_OWN = 5
"""The first rows of the table are Roost's built-in tools."""
ROOSTS_SHARE = 0.3
# share of requests that name the tool's description and its values, as forms and other programs do
EXPLICIT_SHARE = 0.12
PLAIN_NAMES_SHARE = 0.5
EXPLICIT = {
    False: ("{about}: {values}", "{about} with {values}", "{name} {values}", "I would like to {lower}, {values}"),
    True: ("{about}：{values}", "{about}，{values}", "我想{about}，{values}", "{name}，{values}"),
}
NEEDS_A_TOOL = ("weather", "news", "clock", "天气", "新闻", "时钟")
"""In answers that are correct only if no tool is offered."""


@dataclass(frozen=True)
class NaturalTool:
    """A row of the table, with its names in one dialogue. ``names``: parameter key -> its name here."""

    row: Mapping[str, Any]
    chinese: bool
    definition: Mapping[str, Any]
    names: Mapping[str, str]

    @property
    def name(self) -> str:
        return str(self.definition["name"])


@dataclass(frozen=True)
class NaturalRequest:
    tool: NaturalTool
    text: str
    arguments: dict[str, Any]
    output: dict[str, Any]
    report: str


@lru_cache(maxsize=1)
def table() -> tuple[Mapping[str, Any], ...]:
    rows: list[Mapping[str, Any]] = json.loads(TABLE_FILE.read_text(encoding="utf-8"))
    return tuple(rows)


def natural_tool(row: Mapping[str, Any], rng: random.Random, chinese: bool, as_shipped: bool = False) -> NaturalTool:
    """With random names from the row; ``as_shipped``: with the first of each, in English."""
    pick = (lambda options: options[0]) if as_shipped or rng.random() < PLAIN_NAMES_SHARE else rng.choice
    language = "zh" if chinese and not as_shipped and rng.random() < 0.6 else "en"
    names = {key: pick(parameter["names"]) for key, parameter in row["parameters"].items()}
    noted = rng.random() < 0.3
    properties = {names[key]: _schema(parameter, language, noted) for key, parameter in row["parameters"].items()}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required := [names[key] for key, parameter in row["parameters"].items() if parameter.get("required")]:
        schema["required"] = required
    definition = {"name": pick(row["names"]), "description": pick(row["about"][language]), "parameters": schema}
    return NaturalTool(row, chinese, definition, names)


def _schema(parameter: Mapping[str, Any], language: str, noted: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.get("type", "string")}
    choices = value_table()["choices"].get(parameter["kind"])
    if choices and schema["type"] == "string":
        schema["enum"] = [value for value, _, _ in choices]
    if noted and "note" in parameter:
        schema["description"] = parameter["note"][language]
    return schema


def phrasings(row: Mapping[str, Any], chinese: bool, held_out: bool) -> list[str]:
    asks: list[str] = row["asks"]["zh" if chinese else "en"]
    return [ask for ask in asks if is_held_out(ask, HELD_OUT_PERCENT) == held_out]


def natural_request(tool: NaturalTool, words: Words) -> NaturalRequest:
    rng, row, chinese = words.rng, tool.row, tool.chinese
    maker = ValueMaker(words, chinese)
    said = {key: maker.make(parameter["kind"]) for key, parameter in row["parameters"].items()}
    if not words.held_out and said and rng.random() < EXPLICIT_SHARE:
        text, used = _explicit(tool, said, rng)
    else:
        text, used = _phrased(tool, said, rng, words.held_out)
    results = {key: maker.make(kind) for key, kind in row["result"].items()}
    spoken = {key: text for key, (_, text) in {**said, **results}.items()}
    report = row["report"]["zh" if chinese else "en"].format(**spoken)
    arguments = {tool.names[key]: said[key][0] for key in used}
    return NaturalRequest(tool, text, arguments, {key: value for key, (value, _) in results.items()}, report)


def _explicit(tool: NaturalTool, said: Mapping[str, tuple[Any, str]], rng: random.Random) -> tuple[str, list[str]]:
    """A request that names the parameters and their values, and the keys of these parameters."""
    used = [key for key in said if tool.row["parameters"][key].get("required") or rng.random() < 0.5]
    shown = [(tool.names[key], said[key]) for key in used if not isinstance(said[key][0], bool)]
    if len(shown) < len(used) or not used:  # true and false can only be said in a phrasing
        return _phrased(tool, said, rng)
    form = rng.choice(("{name}: {value}", "{name} {value}", "{name}={value}", "{name} = {value}"))
    values = ("，" if tool.chinese else ", ").join(form.format(name=name, value=value) for name, (value, _) in shown)
    about = str(tool.definition["description"])
    frame = rng.choice(EXPLICIT[tool.chinese])
    text = frame.format(about=about, lower=about[0].lower() + about[1:], name=tool.name, values=values)
    return text, used


def _phrased(
    tool: NaturalTool, said: Mapping[str, tuple[Any, str]], rng: random.Random, held_out: bool = False
) -> tuple[str, list[str]]:
    """A request in one of the tool's phrasings for training or evaluation, and its keys. Raises IndexError if there is
    none."""
    pattern = rng.choice(phrasings(tool.row, tool.chinese, held_out))
    text = vary(rng, pattern, tool.chinese).format(**{key: spoken for key, (_, spoken) in said.items()})
    return text, [key for key in said if "{" + key + "}" in pattern]


def natural_tools(rng: random.Random, chinese: bool, form: str) -> list[NaturalTool]:
    """Roost's own as they ship, or one to six others; few if the format is long."""
    if form == formats.COMPACT and rng.random() < ROOSTS_SHARE:
        own = [natural_tool(row, rng, chinese, as_shipped=True) for row in table()[:ROOSTS_OWN]]
        return own[: ROOSTS_OWN - 1] if rng.random() < 0.5 else own  # attachments are searched only if there are any
    count = rng.choice((1, 2, 3, 3, 4, 4, 5, 6) if form == formats.COMPACT else (1, 2, 2, 3))
    rows = rng.sample(table(), count)
    if rng.random() < 0.3 and table()[0] not in rows:
        rows[0] = rng.choice(table()[:ROOSTS_OWN])
    tools: list[NaturalTool] = []
    for row in {row["names"][0]: row for row in rows}.values():
        tool = natural_tool(row, rng, chinese)
        if all(tool.name != other.name for other in tools):
            tools.append(tool)
    return tools


def natural_document(rng: random.Random, chinese: bool) -> Document:
    """One to about six requests with the same tools, within a window."""
    words = WideWords(rng)
    form = rng.choices((formats.COMPACT, formats.JSON_LIST, formats.LEGACY), (66, 31, 3))[0]
    tools = natural_tools(rng, chinese, form)
    definitions = [dict(tool.definition) for tool in tools]
    system = system_text(ToolTask(CALL, chinese, definitions, "", [], "", []), form, rng)
    dialogue = Dialogue(rng, system)
    while room_left(dialogue):
        write_turn(dialogue, tools, form, words, chinese)
    return dialogue.document()


def write_turn(dialogue: Dialogue, tools: Sequence[NaturalTool], form: str, words: Words, chinese: bool) -> None:
    rng = words.rng
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == NO_CALL:
        user, answer = tool_free_exchange(rng, chinese)
        dialogue.user(user).assistant(answer)
    elif kind == NO_TOOL:
        write_refusal(dialogue, tools, words, chinese)
    else:
        count = 2 if kind == TWO_CALLS and len(tools) > 1 and form != formats.LEGACY else 1
        requests = [natural_request(tool, words) for tool in rng.sample(list(tools), count)]
        dialogue.user(joined(requests, chinese))
        write_call(dialogue, task_of(requests, chinese), form, rng)


def tool_free_exchange(rng: random.Random, chinese: bool, held_out: bool = False) -> tuple[str, str]:
    while True:
        user, answer = plain_exchange(rng, chinese, held_out)
        if not any(word in answer for word in NEEDS_A_TOOL):
            return user, answer


def joined(requests: Sequence[NaturalRequest], chinese: bool) -> str:
    if len(requests) == 1:
        return requests[0].text
    first, *others = (request.text.rstrip("?.!？。！") for request in requests)
    return "，然后".join([first, *others]) if chinese else ". And then: ".join([first, *others])


def task_of(requests: Sequence[NaturalRequest], chinese: bool) -> ToolTask:
    calls = [(request.tool.name, request.arguments) for request in requests]
    report = ("" if chinese else " ").join(request.report for request in requests)
    return ToolTask(CALL, chinese, [], "", calls, report, [request.output for request in requests])


def write_refusal(dialogue: Dialogue, tools: Sequence[NaturalTool], words: Words, chinese: bool) -> None:
    """A request for a tool that is not offered."""
    offered = {tool.row["names"][0] for tool in tools}
    row = words.rng.choice([row for row in table() if row["names"][0] not in offered])
    dialogue.user(natural_request(natural_tool(row, words.rng, chinese), words).text)
    dialogue.assistant("我没有可以做这件事的工具。" if chinese else "I have no tool for that.")
