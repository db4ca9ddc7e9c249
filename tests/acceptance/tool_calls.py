"""Calls of generated tools by the bundled model over the API: constrained, whole and streamed, and free.

    python -m tests.acceptance.tool_calls --cases 200

Prints one JSON document. A call counts as valid if its arguments can be parsed and `jsonschema` accepts them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import openai

from tests.acceptance.served_roost import ROOT
from tests.acceptance.tool_cases import Case, cases
from tests.web.api.api_server import ApiServer
from webapp.chat.formats import default_template
from webapp.chat.messages import Message, Role
from webapp.chat.prompts import render
from webapp.chat.tool_dialects import OfferedTools
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.client import ProcessEngineClient
from webapp.services.generation.generation import generate
from webapp.services.generation.request import dialect_of

AT_ONCE = 8
MAX_TOKENS = 1_500
SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_p": 0.8, "frequency_penalty": 0.0, "presence_penalty": 0.0}


@dataclass(frozen=True)
class Answer:
    """``calls``: (name, arguments as text)."""

    content: str
    calls: tuple[tuple[str, str], ...]
    reason: str = ""


class Trial:
    """Tests the bundled model behind a real server, in this process, so that free decoding can be called directly."""

    def __init__(self, server: ApiServer) -> None:
        self.manager = server.manager
        self.client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=600)

    def whole(self, number: int, case: Case) -> Answer:
        [choice] = self.client.chat.completions.create(**_request(number, case)).choices
        calls = tuple((call.function.name, call.function.arguments) for call in choice.message.tool_calls or ())
        return Answer(choice.message.content or "", calls, choice.finish_reason)

    def streamed(self, number: int, case: Case) -> Answer:
        content, calls, reason = "", {}, ""
        for chunk in self.client.chat.completions.create(**_request(number, case), stream=True):
            [choice] = chunk.choices
            content, reason = content + (choice.delta.content or ""), choice.finish_reason or reason
            for piece in choice.delta.tool_calls or ():
                name, arguments = calls.get(piece.index, ("", ""))
                calls[piece.index] = (
                    name + (piece.function.name or ""), arguments + (piece.function.arguments or "")
                )  # fmt: skip
        return Answer(content, tuple(calls[index] for index in sorted(calls)), reason)

    def free(self, number: int, case: Case) -> Answer:
        """The same prompt without a grammar. It cannot require a call."""
        info = self.manager.model_info()
        assert info.config is not None
        offered = OfferedTools(dialect_of("", info), tuple(tool["function"] for tool in case.tools))
        template = default_template(info.config.architecture, info.config.vocab_size)
        rendered = render(template, [Message(Role.USER, case.prompt)], tools=offered)
        params = SamplingParams(**SAMPLING, max_tokens=MAX_TOKENS, seed=number)
        text = generate(self.manager, rendered, params).text
        return Answer(text.content, tuple((call.name, call.arguments) for call in text.tool_calls))


def _request(number: int, case: Case) -> dict[str, Any]:
    return {
        "model": "roost", "messages": [{"role": "user", "content": case.prompt}], "tools": case.tools,
        "tool_choice": case.choice, "max_tokens": MAX_TOKENS, "seed": number, **SAMPLING,
    }  # fmt: skip


def problem(case: Case, call: tuple[str, str]) -> str:
    """The problem of a call; "" if there is none."""
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in case.tools}
    name, arguments = call
    if name not in schemas:
        return f"there is no tool {name}"
    try:
        jsonschema.validate(json.loads(arguments), schemas[name])
    except (ValueError, jsonschema.ValidationError) as exc:
        return f"{name}: {getattr(exc, 'message', exc)}"
    return ""


def figures(asked: Sequence[Case], answers: Sequence[Answer]) -> dict[str, Any]:
    """``unreadable``: answers with a call that could not be parsed. ``cut``: answers ended by the token limit; their
    last call is incomplete and not checked."""
    counts: Counter[str] = Counter()
    problems = []
    for case, answer in zip(asked, answers, strict=True):
        is_cut = answer.reason == "length"
        found = [problem(case, call) for call in (answer.calls[:-1] if is_cut else answer.calls)]
        problems += [text for text in found if text]
        counts += Counter(
            answers_with_calls=bool(answer.calls), calls=len(found), valid=found.count(""),
            unreadable=not found and "```json" in answer.content, cut=is_cut,
            demanded=case.choice == "required", demanded_and_called=case.choice == "required" and bool(answer.calls),
        )  # fmt: skip
    attempts = counts["calls"] + counts["unreadable"]
    share = round(counts["valid"] / attempts, 4) if attempts else None
    return {**counts, "valid_share": share, "problems": problems[:20]}


def measure(server: ApiServer, count: int, free_count: int) -> dict[str, Any]:
    """The document: constrained, streamed compared with whole, and the first ``free_count`` free."""
    asked, trial = cases(count), Trial(server)

    def answers(ask: Any, count: int = count) -> list[Answer]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ask, range(count), asked[:count]))

    whole, streamed, free = answers(trial.whole), answers(trial.streamed), answers(trial.free, free_count)
    differing = [number for number, pair in enumerate(zip(whole, streamed, strict=True)) if pair[0] != pair[1]]
    return {
        "cases": count, "constrained": figures(asked, whole), "streamed": figures(asked, streamed),
        "streamed_differs": differing, "free": figures(asked[:free_count], free),
    }  # fmt: skip


def bundled_server(data_dir: Path) -> ApiServer:
    return ApiServer(data_dir, "auto", ProcessEngineClient, models_dir=ROOT / "models")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=200)
    count = parser.parse_args().cases
    with tempfile.TemporaryDirectory() as folder:
        server = bundled_server(Path(folder))
        try:
            print(json.dumps(measure(server, count, count), ensure_ascii=False))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
