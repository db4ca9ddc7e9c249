"""Evaluation cases that cannot occur in training: held-out tools, names, values and phrasings.

`python -m models.starter.data.heldout FILE` writes those of `roost eval`, one JSON line per case.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import to_builtins

from models.starter.data.natural_tools import natural_request, natural_tools, phrasings, tool_free_exchange
from models.starter.data.smalltalk import Intent, intents, vary
from models.starter.data.tool_dialogues import ASK_BACK, CALL, NO_CALL, TWO_CALLS, random_task
from models.starter.data.tool_formats import COMPACT
from models.starter.data.words import Words
from webapp.cli.evaluate import PromptCase, ToolCase
from webapp.tools.bench import ExpectedCall

TOOL_KINDS = {CALL: 50, NO_CALL: 30, TWO_CALLS: 10, ASK_BACK: 10}


def tool_cases(count: int = 240, seed: int = 9) -> list[ToolCase]:
    """Half English, half Chinese; the kinds in the shares of TOOL_KINDS."""
    rng = random.Random(f"tool cases {seed}")
    words = Words(rng, held_out=True)
    cases: list[ToolCase] = []
    kinds = [kind for kind, share in TOOL_KINDS.items() for _ in range(round(count * share / 100))]
    for number, kind in enumerate(kinds):
        chinese = number % 2 == 1
        task = random_task(words, chinese, kind, max_tools=4)
        while task.kind != kind:  # a tool without a parameter to ask for
            task = random_task(words, chinese, kind, max_tools=4)
        calls = [ExpectedCall(name, arguments) for name, arguments in task.calls]
        messages = [{"role": "user", "content": task.user}]
        cases.append(ToolCase(kind, "zh" if chinese else "en", task.definitions, messages, calls))
    return cases


def natural_cases(count: int = 160, seed: int = 9) -> list[ToolCase]:
    """Tools that training also has, perhaps with other names, in phrasings and with values that it has not; every fifth
    case is small talk. Half English, half Chinese."""
    rng = random.Random(f"natural cases {seed}")
    words = Words(rng, held_out=True)
    cases: list[ToolCase] = []
    while len(cases) < count:
        chinese = len(cases) % 2 == 1
        tools = natural_tools(rng, chinese, COMPACT)
        definitions = [dict(tool.definition) for tool in tools]
        language = "zh" if chinese else "en"
        if len(cases) % 10 >= 8:
            user, _ = tool_free_exchange(rng, chinese, held_out=True)
            cases.append(ToolCase(NO_CALL, language, definitions, [{"role": "user", "content": user}]))
        elif askable := [tool for tool in tools if phrasings(tool.row, chinese, held_out=True)]:
            request = natural_request(rng.choice(askable), words)
            calls = [ExpectedCall(request.tool.name, request.arguments)]
            messages = [{"role": "user", "content": request.text}]
            cases.append(ToolCase(CALL, language, definitions, messages, calls))
    return cases


def prompt_cases(chinese: bool, count: int = 100, seed: int = 9) -> list[PromptCase]:
    """Held-out phrasings of small talk and how-to questions; each once as written, then with varied spelling."""
    rng = random.Random(f"prompt cases {seed} {chinese}")
    phrasings: list[tuple[Intent, str]] = [(i, q) for i, _ in intents(chinese) for q in i.side(held_out=True)]
    rng.shuffle(phrasings)
    language = "zh" if chinese else "en"
    cases: list[PromptCase] = []
    seen: set[str] = set()
    position = 0
    while len(cases) < count:
        intent, question = phrasings[position % len(phrasings)]
        text = question if position < len(phrasings) else vary(rng, question, chinese)
        position += 1
        if text in seen and position < 50 * count:
            continue
        seen.add(text)
        cases.append(PromptCase(language, intent.name, [{"role": "user", "content": text}], intent.keywords))
    return cases


def lines() -> Iterator[str]:
    """The lines of `roost eval`'s file."""
    cases: list[tuple[str, ToolCase | PromptCase]] = [("tools", case) for case in tool_cases()]
    cases += [("natural", case) for case in natural_cases()]
    cases += [("prompts", case) for chinese in (False, True) for case in prompt_cases(chinese)]
    for part, case in cases:
        yield json.dumps({"part": part, "case": to_builtins(case)}, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8")
