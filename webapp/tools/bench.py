"""The tool bench's cases (a prompt and the expected calls), generated or imported, and the scoring of an answer.

A case is one line of JSON: ``{"prompt": "…", "calls": [{"name": "…", "arguments": {…}}]}``; no calls, or none
given, means that plain text is the right answer. ``"generated": true`` marks cases that :func:`make_cases` generated
from the tools' schemas: a tool's own description with values that fit it, in a fixed sentence. The same seed, language
and schema give the same prompts, independent of other tools.

`roost eval` and the tool bench both score with :func:`score_calls`:

``decision``   the answer begins a call where one is expected, and none where none is
``readable``   the calls can be parsed, as in a chat
``name``       the names called are the expected names, in the same order
``arguments``  the calls equal the expected ones as JSON values: names and all arguments, without extra ones

If no call is expected, the last three are None and not counted. If one is expected and none was made, they are False.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct, field

from webapp.chat.messages import CallDelta
from webapp.chat.tool_dialects import FENCED, CallSyntax
from webapp.chat.tool_parser import ToolCallParser
from webapp.errors import BenchCaseInvalid
from webapp.i18n import Text
from webapp.tools.schema_check import Matcher, argument_problems, target_of

MAX_PROMPT_CHARS = 8_000
MAX_CALLS = 8
MAX_CASES = 500


class BenchCase(Struct, frozen=True):
    prompt: str
    calls: tuple[ExpectedCall, ...] = ()
    is_generated: bool = False

    @property
    def tool_names(self) -> frozenset[str]:
        return frozenset(call.name for call in self.calls)


def case_from_dict(value: object) -> BenchCase:
    """Raises BenchCaseInvalid with the field that is wrong: ``prompt``, ``calls`` or ``arguments``."""
    if not isinstance(value, Mapping):
        raise _problem("prompt", "object")
    calls = value.get("calls", ())
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise _problem("calls", "list")
    prompt = value.get("prompt")
    found = tuple(_call(call) for call in calls)
    return checked(BenchCase(prompt if isinstance(prompt, str) else "", found, bool(value.get("generated"))))


def checked(case: BenchCase) -> BenchCase:
    """Returns the case, or raises BenchCaseInvalid."""
    if not case.prompt.strip():
        raise _problem("prompt", "empty")
    if len(case.prompt) > MAX_PROMPT_CHARS:
        raise _problem("prompt", "long", limit=MAX_PROMPT_CHARS)
    if len(case.calls) > MAX_CALLS:
        raise _problem("calls", "many_calls", limit=MAX_CALLS)
    return case


def case_to_dict(case: BenchCase) -> dict[str, Any]:
    made: dict[str, Any] = {"prompt": case.prompt, "calls": [call_to_dict(call) for call in case.calls]}
    return made | ({"generated": True} if case.is_generated else {})


def call_to_dict(call: ExpectedCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}


def cases_from_lines(text: str) -> tuple[BenchCase, ...]:
    """Reads all cases or none. ``bench_line_invalid`` has the line's number; blank lines are skipped but counted."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found.append(_case_on_line(number, line))
    if not found:
        raise _problem("cases", "none")
    if len(found) > MAX_CASES:
        raise _problem("cases", "many", limit=MAX_CASES)
    return tuple(found)


def cases_to_lines(cases: Iterable[BenchCase]) -> str:
    return "".join(json.dumps(case_to_dict(case), ensure_ascii=False) + "\n" for case in cases)


def calls_from_text(text: str) -> tuple[ExpectedCall, ...]:
    """Parses a JSON list of calls typed in a form. Raises BenchCaseInvalid (field ``arguments``)."""
    value = _json(text, "arguments")
    return tuple(_call(call) for call in (value if isinstance(value, list) else [value]))


def arguments_from_text(text: str) -> dict[str, Any]:
    """Parses a JSON object typed in a form; empty text is {}. Raises BenchCaseInvalid (field ``arguments``)."""
    value = _json(text, "arguments") if text.strip() else {}
    if not isinstance(value, dict):
        raise _problem("arguments", "arguments")
    return value


def _case_on_line(number: int, line: str) -> BenchCase:
    try:
        return case_from_dict(_json(line, "cases"))
    except BenchCaseInvalid as exc:
        raise BenchCaseInvalid("bench_line_invalid", **{**exc.params, "line": number}) from exc


def _call(value: object) -> ExpectedCall:
    name = value.get("name") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(name, str) or not name:
        raise _problem("calls", "call")
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise _problem("arguments", "arguments")
    return ExpectedCall(name, arguments)


def _json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _problem(field, "json") from exc


def _problem(field: str, key: str, **params: Any) -> BenchCaseInvalid:
    return BenchCaseInvalid(field=field, reason=Text(f"tool_bench.problem.{key}", **params))


Definition = Mapping[str, Any]
WORDS_FILE = Path(__file__).parent / "case_words.json"
TRIES = 12
"""Attempts to get arguments that also fit keywords which the sampler ignores, such as the length of a text."""
MIN_SMALL_TALK = 4


class GeneratedCases(Struct, frozen=True):
    """``left_out``: tools without a prompt, because no value is known that fits their schema."""

    cases: tuple[BenchCase, ...]
    left_out: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def case_words() -> Mapping[str, Mapping[str, Any]]:
    words: Mapping[str, Mapping[str, Any]] = json.loads(WORDS_FILE.read_text(encoding="utf-8"))
    return words


def make_cases(
    definitions: Sequence[Definition],
    language: str = "en",
    seed: int = 0,
    per_tool: int = 3,
    matches: Matcher | None = None,
) -> GeneratedCases:
    """Makes ``per_tool`` prompts for each tool, and a third as many of small talk. ``definitions`` are OpenAI
    `function` objects."""
    words = case_words().get(language) or case_words()["en"]
    cases: dict[str, BenchCase] = {}
    left_out = []
    for definition in definitions:
        made = [_case(definition, words, f"{seed} {language}", number, matches) for number in range(per_tool)]
        found = [case for case in made if case is not None]
        cases |= {case.prompt: case for case in found}
        left_out += [] if found else [str(definition["name"])]
    talk = _small_talk(words, seed, max(MIN_SMALL_TALK, ceil(len(cases) / 3)))
    return GeneratedCases((*cases.values(), *talk), tuple(left_out))


def _case(
    definition: Definition, words: Mapping[str, Any], seed: str, number: int, matches: Matcher | None
) -> BenchCase | None:
    """Even numbers have only the required arguments; odd numbers also have optional ones if possible."""
    rng = Random(f"{seed} {definition['name']} {number}")
    schema = definition.get("parameters") or {}
    for attempt in range(TRIES):
        try:
            with_optional = number % 2 == 1 and attempt < TRIES // 2
            arguments = ValueSampler(rng, schema, words["values"]).arguments(with_optional)
        except (NoSample, TypeError, ValueError, ArithmeticError):  # a schema may contain any values
            return None
        if not argument_problems(arguments, schema, matches):
            prompt = _prompt(definition, arguments, words, rng.randrange(100) * 3 + number)
            return BenchCase(prompt, (ExpectedCall(str(definition["name"]), arguments),), is_generated=True)
    return None


def _prompt(definition: Definition, arguments: Mapping[str, Any], words: Mapping[str, Any], turn: int) -> str:
    what = " ".join(str(definition.get("description") or "").split()) or _in_words(str(definition["name"]))
    frames = words["with_arguments" if arguments else "without_arguments"]
    frame: str = frames[turn % len(frames)]
    what = what.rstrip(".。!?")
    lower = what[:1].lower() + what[1:] if what[1:2].islower() else what
    return frame.format(what=what, lower=lower, arguments=_named_values(arguments, words))


def _named_values(arguments: Mapping[str, Any], words: Mapping[str, Any]) -> str:
    parts = []
    for name, value in arguments.items():
        is_nested = isinstance(value, Mapping) or (
            isinstance(value, list) and any(isinstance(v, Mapping) for v in value)
        )
        frame: str = words["nested" if is_nested else "argument"]
        parts.append(frame.format(name=_in_words(name), value=_said(value, words)))
    return str(words["between"]).join(parts)


def _said(value: Any, words: Mapping[str, Any]) -> str:
    if isinstance(value, Mapping):
        return _named_values(value, words)
    if isinstance(value, list):
        return str(words["listed"]).join(_said(item, words) for item in value)
    if isinstance(value, bool):
        return str(words["true" if value else "false"])
    text = value if isinstance(value, str) else json.dumps(value)
    return str(words["quoted"]).format(value=text) if " " in text or not text else text


def _small_talk(words: Mapping[str, Any], seed: int, count: int) -> list[BenchCase]:
    sentences = list(words["small_talk"])
    Random(f"{seed} small talk").shuffle(sentences)
    return [BenchCase(sentence, is_generated=True) for sentence in sentences[:count]]


def _in_words(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").split())


MAX_VALUE_DEPTH = 6
USUAL = range(1, 100)
FORMATS = {
    "date": "2026-03-14",
    "time": "08:30:00Z",
    "date-time": "2026-03-14T08:30:00Z",
    "email": "mia@example.org",
    "uri": "https://example.org/birds",
    "uuid": "3f2b1c9e-8d47-4a6b-9c15-0e7d2a4b6c81",
    "ipv4": "192.0.2.17",
}

ValueLists = Sequence[tuple[Sequence[str], Sequence[str]]]
"""(words in a parameter's name, values for it). The first match is used; the last entry has no words and always
matches."""


class NoSample(Exception):
    pass


class ValueSampler:
    """Samples the arguments of one call. All lists advance together, so that *from* km gets *to* mi; numbers increase,
    so that a minimum is not above its maximum."""

    def __init__(self, rng: Random, root: Mapping[str, Any], lists: ValueLists) -> None:
        self._rng = rng
        self._root = root
        self._lists = lists
        self._turn = rng.randrange(1000)
        self._uses: dict[int, int] = {}
        self._above = 0.0

    def arguments(self, with_optional: bool) -> dict[str, Any]:
        """The required arguments, or all with a known value. Raises NoSample if a required one has no known value."""
        return self._object(self._root, with_optional, 0)

    def _value(self, name: str, schema: object, depth: int) -> Any:
        schema = self._resolved(schema)
        if depth > MAX_VALUE_DEPTH:
            raise NoSample("it is nested too deep")
        if "const" in schema:
            return schema["const"]
        for key in ("enum", "examples"):
            values = [value for value in schema.get(key) or () if value is not None]
            if values:
                return self._rng.choice(values)
        variants = [
            v for v in schema.get("anyOf") or schema.get("oneOf") or () if self._resolved(v) != {"type": "null"}
        ]
        if variants:
            return self._value(name, variants[0], depth + 1)
        return self._of_kind(name, schema, depth)

    def _of_kind(self, name: str, schema: Mapping[str, Any], depth: int) -> Any:
        kinds = schema.get("type", "string")
        kind = next((one for one in kinds if one != "null"), "null") if isinstance(kinds, list) else kinds
        if kind == "string":
            return FORMATS.get(str(schema.get("format"))) or self._word(name)
        if kind in ("integer", "number"):
            return self._number(schema, kind == "integer")
        if kind == "boolean":
            return self._rng.random() < 0.5
        if kind == "array":
            count = max(int(schema.get("minItems", 1)), 1)
            return [self._value(name, schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind == "object":
            return self._object(schema, False, depth + 1)
        raise NoSample(f"nothing is known for the type {kind}")

    def _object(self, schema: Mapping[str, Any], with_optional: bool, depth: int) -> dict[str, Any]:
        required = set(schema.get("required") or ())
        properties = (schema.get("properties") or {}).items()
        wanted = [(name, part) for name, part in properties if with_optional or name in required]
        found = {}
        for name, part in wanted:
            try:
                found[name] = self._value(name, part, depth)
            except NoSample:
                if name in required:
                    raise
        return found

    def _number(self, schema: Mapping[str, Any], is_whole: bool) -> int | float:
        step = schema.get("multipleOf", 1 if is_whole or self._rng.random() < 0.5 else 0.5)
        least = max(_bound(schema, "inimum", USUAL.start), self._above if self._above < USUAL.stop else USUAL.start)
        most = min(_bound(schema, "aximum", USUAL.stop), max(USUAL.stop, least + 50 * step))
        if most < least:
            least, most = _bound(schema, "inimum", most - 50 * step), most
        first, last = -int(-least // step), int(most // step)
        if last < first:
            raise NoSample("no number is in its range")
        value = self._rng.randint(first, last) * step
        self._above = value + step
        return int(value) if value == int(value) else round(value, 6)

    def _word(self, name: str) -> str:
        words = set(re.sub(r"([a-z])([A-Z])", r"\1 \2", name).replace("_", " ").replace("-", " ").lower().split())
        for place, (keywords, values) in enumerate(self._lists):
            if not keywords or words & set(keywords):
                self._uses[place] = self._uses.get(place, 0) + 1
                return values[(self._turn + self._uses[place]) % len(values)]
        raise NoSample("the word list has no end")

    def _resolved(self, schema: object) -> Mapping[str, Any]:
        """Follows a reference within the parameters; raises NoSample for any other."""
        found = schema
        for _ in range(MAX_VALUE_DEPTH):
            if not isinstance(found, Mapping):
                return {}
            if "$ref" not in found:
                return found
            found = target_of(self._root, str(found["$ref"]))
        raise NoSample("its references have no end")


def _bound(schema: Mapping[str, Any], name: str, usual: float) -> float:
    """``name`` without its first letter, to find both minimum and exclusiveMinimum."""
    sign = 1 if name == "inimum" else -1
    strict = schema.get(f"exclusiveM{name}")
    value = schema.get(f"m{name}", usual)
    if isinstance(strict, (int, float)) and not isinstance(strict, bool):
        value = strict + sign * schema.get("multipleOf", 1)
    return float(value)


FIGURES = ("decision", "readable", "name", "arguments")


class ExpectedCall(Struct, frozen=True):
    """An expected call, or one that was made: ``arguments`` are JSON values."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


class CallScore(Struct, frozen=True):
    decision: bool
    readable: bool | None = None
    name: bool | None = None
    arguments: bool | None = None

    @property
    def is_right(self) -> bool:
        return self.decision and self.arguments is not False


class Reading(Struct, frozen=True):
    """``sets_out``: a part of the answer begins like a call, even if it cannot be parsed."""

    calls: tuple[ExpectedCall, ...] = ()
    sets_out: bool = False


def read_answer(answer: str, syntax: CallSyntax = FENCED) -> Reading:
    """Finds the calls in an answer's content, also calls of tools that were not offered."""
    parser = ToolCallParser(syntax, None, lambda: "")
    pieces = [*parser.feed(answer), *parser.finish()]
    calls = [piece for piece in pieces if isinstance(piece, CallDelta)]
    found = tuple(ExpectedCall(call.name, json.loads(call.arguments)) for call in calls)
    return Reading(found, bool(found) or syntax.find(answer, True, True).body is not None)


def score_calls(expected: Sequence[ExpectedCall], reading: Reading) -> CallScore:
    """``expected`` is empty if the right answer is text."""
    if not expected:
        return CallScore(decision=not reading.sets_out)
    return CallScore(
        decision=reading.sets_out,
        readable=bool(reading.calls),
        name=[call.name for call in reading.calls] == [call.name for call in expected],
        arguments=_is_same([_plain(call) for call in reading.calls], [_plain(call) for call in expected]),
    )


def shares(scores: Iterable[Any], names: Iterable[str]) -> dict[str, float]:
    """Maps each name to the share of True among the scores, from 0 to 1; None is not counted. Also contains
    ``cases``."""
    rows = list(scores)
    result: dict[str, float] = {"cases": len(rows)}
    for name in names:
        values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
        result[name] = round(sum(values) / len(values), 4) if values else float("nan")
    return result


def _plain(call: ExpectedCall) -> list[Any]:
    return [call.name, call.arguments]


def _is_same(one: Any, other: Any) -> bool:
    """Compares JSON values: 1 equals 1.0, but not true (in Python it does)."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
