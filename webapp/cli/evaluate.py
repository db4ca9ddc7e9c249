"""`roost eval`: held-out prompts and function calls on any model. The last line is one JSON document."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

from msgspec import to_builtins

from webapp.chat.messages import Message, Role
from webapp.chat.prompts import render
from webapp.chat.tool_dialects import G1X_JSON, OfferedTools, compact_offer, json_offer
from webapp.cli.options import add_model_options, output_file, settings_from
from webapp.engine.outputs import FinishReason
from webapp.engine.sampling_params import SamplingParams
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.evaluation import PromptCase, ToolCase, confusion, evenly, held_out, score_prompt, score_tools
from webapp.services.generation.generation import Generation, generate
from webapp.services.generation.request import template_of
from webapp.services.generation.structure import call_constraint
from webapp.tools.bench import shares

AT_ONCE = 8
MOST = {"tools": 240, "natural": 160, "prompts": 100}
"""Numbers of cases; of prompts, per language."""
FORMS = {"g1x-json": json_offer, "g1x-compact": compact_offer}
FREE, CONSTRAINED = "free", "constrained"
GREEDY = SamplingParams(temperature=0, frequency_penalty=0.0, max_tokens=200)
TOOL_FIGURES = ("decision", "valid_json", "name", "arguments")
PROMPT_FIGURES = ("ends_turn", "no_loop", "on_topic")

Case = TypeVar("Case")


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
