"""`roost eval`: any model's answers to cases that were not in the starter model's training data, scored.

``held_out.jsonl`` has one case per line, written by ``python -m models.starter.data.heldout``. The cases never change,
so the figures of different models can be compared. :mod:`webapp.tools.bench` scores calls, as in the tool bench. The
last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, field, to_builtins

from webapp.chat.messages import Message, Role
from webapp.chat.prompts import render
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools, compact_offer, json_offer
from webapp.cli.options import add_model_options, output_file, settings_from
from webapp.engine.outputs import FinishReason
from webapp.engine.sampling_params import SamplingParams
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.generation.generation import Generation, generate
from webapp.services.generation.request import template_of
from webapp.services.generation.structure import call_constraint
from webapp.tools.bench import ExpectedCall, read_answer, score_calls, shares

CASES = Path(__file__).with_name("held_out.jsonl")
CALL, NO_CALL, TWO_CALLS, ASK_BACK = "call", "no_call", "two_calls", "ask_back"
LOOP_TIMES = 4
LOOP_CHARS = 24
AT_ONCE = 8
MOST = {"tools": 240, "natural": 160, "prompts": 100}
"""Numbers of cases; of prompts, per language."""
FORMS = {"g1x-json": json_offer, "g1x-compact": compact_offer}
FREE, CONSTRAINED = "free", "constrained"
GREEDY = SamplingParams(temperature=0, frequency_penalty=0.0, max_tokens=200)
TOOL_FIGURES = ("decision", "valid_json", "name", "arguments")
PROMPT_FIGURES = ("ends_turn", "no_loop", "on_topic")

Case = TypeVar("Case")


class ToolCase(Struct, frozen=True):
    """``tools``: `function` objects as in the OpenAI API. ``calls`` is empty if the correct answer is text."""

    kind: str
    language: str
    tools: list[dict[str, Any]]
    messages: list[dict[str, str]]
    calls: list[ExpectedCall] = field(default_factory=list)


class PromptCase(Struct, frozen=True):
    """An answer is on topic if it contains one of the keywords, ignoring case."""

    language: str
    topic: str
    messages: list[dict[str, str]]
    keywords: tuple[str, ...]

    def is_on_topic(self, answer: str) -> bool:
        return any(keyword.lower() in answer.lower() for keyword in self.keywords)


class HeldOut(Struct, frozen=True):
    """``tools``: random tools. ``natural``: realistic tools. ``prompts``: small talk and how-to questions, by language.
    Half of each is English, half Chinese."""

    tools: list[ToolCase]
    natural: list[ToolCase]
    prompts: dict[str, list[PromptCase]]


class ToolScore(Struct, frozen=True):
    """``decision``: a call was made if and only if one was expected. The others are None if no call is expected."""

    kind: str
    language: str
    decision: bool
    valid_json: bool | None = None
    name: bool | None = None
    arguments: bool | None = None


class PromptScore(Struct, frozen=True):
    language: str
    ends_turn: bool
    no_loop: bool
    on_topic: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    for name, most in MOST.items():
        parser.add_argument(f"--{name}", type=_number_up_to(most), default=most, help=t(f"cli.eval.{name}"))
    parser.add_argument(
        "--decoding",
        choices=(FREE, CONSTRAINED, "both"),
        default="both",
        help=t("cli.eval.decoding"),
    )
    parser.add_argument("--transcripts", type=output_file, metavar="FILE", help=t("cli.option.transcripts"))


def run(args: argparse.Namespace) -> int:
    decodings = (FREE, CONSTRAINED) if args.decoding == "both" else (args.decoding,)
    cases = held_out()
    with closing(ModelManager(settings_from(args))) as manager:
        evaluation = Evaluation(manager)
        document: dict[str, Any] = {
            "model": manager.model_info().path,
            **{
                part: {
                    f"{form} {decoding}": evaluation.tools(part, chosen, form, decoding == CONSTRAINED)
                    for form in FORMS
                    for decoding in decodings
                }
                for part, chosen in (
                    ("tools", evenly(cases.tools, args.tools)),
                    ("natural", cases.natural[: args.natural]),
                )
                if chosen
            },
            "prompts": {
                language: evaluation.prompts(chosen[: args.prompts])
                for language, chosen in cases.prompts.items()
                if args.prompts
            },
        }
    if args.transcripts:
        lines = (json.dumps(row, ensure_ascii=False) for row in evaluation.transcripts)
        args.transcripts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for part in ("tools", "natural", "prompts"):
        for name, figures in document.get(part, {}).items():
            shown = "  ".join(
                f"{key} {100 * value:.1f} %" for key, value in figures.items() if isinstance(value, float)
            )
            row = {"part": f"{part:<8}", "name": f"{name:<24}", "cases": f"{figures['cases']:>4}", "figures": shown}
            print(t("cli.eval.line", **row), file=sys.stderr)
    print(json.dumps(document, ensure_ascii=False))
    return 0


class Evaluation:
    """Runs cases with greedy sampling, several at once. ``transcripts`` has the question, answer and score of each."""

    def __init__(self, manager: ModelManager) -> None:
        self.manager = manager
        self.template = template_of(manager.model_info())
        self.transcripts: list[dict[str, Any]] = []

    def tools(self, part: str, cases: Sequence[ToolCase], form: str, is_constrained: bool) -> dict[str, Any]:
        """``is_constrained``: the answer is free text or a well-formed call of an offered tool; the model chooses."""
        answers = self._answers(
            cases, lambda case: FORMS[form](case.tools), self._constraint if is_constrained else None
        )
        scores = [score_tools(case, answer.text.content) for case, answer in zip(cases, answers, strict=True)]
        self._keep(f"{part} {form} {CONSTRAINED if is_constrained else FREE}", cases, answers, scores)
        return {**shares(scores, TOOL_FIGURES), "confusion": confusion(scores)}

    def prompts(self, cases: Sequence[PromptCase]) -> dict[str, Any]:
        answers = self._answers(cases, lambda case: "")
        scores = [
            score_prompt(case, answer.text.content, answer.finish_reason == FinishReason.STOP)
            for case, answer in zip(cases, answers, strict=True)
        ]
        self._keep("prompts", cases, answers, scores)
        return shares(scores, PROMPT_FIGURES)

    def _constraint(self, case: ToolCase) -> dict[str, Any] | None:
        offer = OfferedTools(G1X_JSON, tuple(case.tools))  # the G1x formats differ only in how they offer tools
        return call_constraint(render(self.template, [], "", tools=offer))

    def _answers(
        self,
        cases: Sequence[Case],
        system: Callable[[Case], str],
        constraint: Callable[[Any], dict[str, Any] | None] | None = None,
    ) -> list[Generation]:
        def ask(case: Any) -> Generation:
            messages = [Message(Role(row["role"]), row["content"]) for row in case.messages]
            rendered = render(self.template, messages, system(case))
            return generate(self.manager, rendered, GREEDY, constraint(case) if constraint else None)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ask, cases))

    def _keep(self, part: str, cases: Sequence[Any], answers: Sequence[Generation], scores: Sequence[Any]) -> None:
        for case, answer, score in zip(cases, answers, scores, strict=True):
            row = {"part": part, "case": to_builtins(case), "answer": answer.text.content, "score": to_builtins(score)}
            self.transcripts.append(row)


def _number_up_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        found = int(text)
        if not 0 <= found <= most:
            raise argparse.ArgumentTypeError(t("cli.eval.range", most=most))
        return found

    return number


def held_out() -> HeldOut:
    """All cases, in order."""
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    parts = {part: [row["case"] for row in rows if row["part"] == part] for part in ("tools", "natural", "prompts")}
    prompts = [PromptCase(**{**row, "keywords": tuple(row["keywords"])}) for row in parts["prompts"]]
    return HeldOut(
        [_tool_case(row) for row in parts["tools"]],
        [_tool_case(row) for row in parts["natural"]],
        {language: [case for case in prompts if case.language == language] for language in ("en", "zh")},
    )


def evenly(cases: list[ToolCase], count: int) -> list[ToolCase]:
    """``count`` cases, evenly distributed, because the cases are sorted by kind."""
    return [cases[number * len(cases) // count] for number in range(count)]


def score_tools(case: ToolCase, answer: str) -> ToolScore:
    found = score_calls(case.calls if case.kind in (CALL, TWO_CALLS) else (), read_answer(answer))
    return ToolScore(case.kind, case.language, found.decision, found.readable, found.name, found.arguments)


def score_prompt(case: PromptCase, answer: str, ends_turn: bool) -> PromptScore:
    return PromptScore(case.language, ends_turn, not has_loop(answer), case.is_on_topic(answer))


def has_loop(text: str) -> bool:
    """True if the text ends with one string repeated :data:`LOOP_TIMES` times over :data:`LOOP_CHARS` characters."""
    match = re.search(rf"(.{{1,80}}?)\1{{{LOOP_TIMES - 1},}}\s*\Z", text, re.DOTALL)
    return match is not None and len(match[0]) >= LOOP_CHARS


def confusion(scores: Iterable[ToolScore]) -> Mapping[str, int]:
    """Number of correct and wrong decisions by kind of case: ``kind:right`` and ``kind:wrong``."""
    return Counter(f"{score.kind}:{'right' if score.decision else 'wrong'}" for score in scores)


def _tool_case(row: dict[str, Any]) -> ToolCase:
    return ToolCase(**{**row, "calls": [ExpectedCall(**call) for call in row["calls"]]})
