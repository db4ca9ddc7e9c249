"""A start for the tool bench: prompts made from the schemas of tools, and small talk that should lead to no call.

They are synthetic: a tool's own description with values that would fit it, put into a fixed sentence. The same seed,
language and schema give the same prompts, whatever other tools there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

from webapp.tools.bench_case import BenchCase
from webapp.tools.call_score import ExpectedCall
from webapp.tools.sample_values import NoSample, ValueSampler
from webapp.tools.schema_check import Matcher, argument_problems

Definition = Mapping[str, Any]
WORDS_FILE = Path(__file__).parent / "case_words.json"
TRIES = 12
"""Draws until the arguments fit what the sampler does not look at, such as the length of a text."""
LEAST_SMALL_TALK = 4


@dataclass(frozen=True)
class MadeCases:
    """``left_out``: tools no prompt could be made for, because no value is known that fits their schema."""

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
) -> MadeCases:
    """``per_tool`` prompts a tool, and a third as many of small talk. ``definitions`` are OpenAI `function` objects."""
    words = case_words().get(language) or case_words()["en"]
    cases: dict[str, BenchCase] = {}
    left_out = []
    for definition in definitions:
        made = [_case(definition, words, f"{seed} {language}", number, matches) for number in range(per_tool)]
        found = [case for case in made if case is not None]
        cases |= {case.prompt: case for case in found}
        left_out += [] if found else [str(definition["name"])]
    talk = _small_talk(words, seed, max(LEAST_SMALL_TALK, ceil(len(cases) / 3)))
    return MadeCases((*cases.values(), *talk), tuple(left_out))


def _case(
    definition: Definition, words: Mapping[str, Any], seed: str, number: int, matches: Matcher | None
) -> BenchCase | None:
    """The first of a tool with required arguments alone, the next with optional ones too where that is possible, and so
    on by turns."""
    rng = Random(f"{seed} {definition['name']} {number}")
    schema = definition.get("parameters") or {}
    for attempt in range(TRIES):
        try:
            with_optional = number % 2 == 1 and attempt < TRIES // 2
            arguments = ValueSampler(rng, schema, words["values"]).arguments(with_optional)
        except (NoSample, TypeError, ValueError, ArithmeticError):  # a schema can say anything
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
