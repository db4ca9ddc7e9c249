"""Calls as the bundled model writes them without a constraint: many prompts, dialects, seeds and temperatures.

    python -m tests.acceptance.record_calls --count 600 > calls.jsonl

One JSON line for each different shape: the question, and the text exactly as sampled. The rows of
``tests/chat/recorded_calls.json`` were chosen from these, and their parsed calls were checked by hand.

On its own, the bundled model begins its calls only with a fence or in Runner's form. So for some prompts the answer's
first words are given: the opening of another wrapper, or of a call without one. The model writes the rest.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from models.starter.data.heldout import tool_cases
from tests.acceptance.served_roost import ROOT
from webapp.chat.messages import Message, Role, ThinkMode
from webapp.chat.prompts import render
from webapp.chat.tool_dialects import OfferedTools, all_dialects
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.manager import ModelManager
from webapp.services.generation.generation import generate
from webapp.services.generation.request import PromptModel, template_of
from webapp.settings import Settings

AT_ONCE = 8
OPENINGS = (
    "",
    "",
    '{"name":"',
    '[{"name":"',
    '<tool_call>\n{"name":"',
    '<tool_call>{"name":"',
    '<tool_calls>[{"name":"',
    '<tool_calls>\n<tool_call>\n{"name":"',
    'I will look.\n{"name":"',
)
TEMPERATURES = (0.6, 1.0, 1.3, 1.6)


def shape_of(text: str) -> str:
    """The text without the call's content, to distinguish shapes."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"(?=\s*:)', "K", text)
    return re.sub(r"\s+", " ", re.sub(r'"(?:[^"\\\n]|\\.)*"|[\d.-]+|\w+', "V", bare))


def record(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(f"recorded calls {seed}")
    cases = tool_cases(240, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), models_dir=ROOT / "models", strategy="native q8")
        manager = ModelManager(settings)
        model = PromptModel.chosen(manager)

        def one(number: int) -> dict[str, Any]:
            own = random.Random(f"{seed} {number}")
            case, dialect = own.choice(cases), own.choice(all_dialects())
            opening, heat = own.choice(OPENINGS), own.choice(TEMPERATURES)
            offered = OfferedTools(dialect, tuple(case.tools))
            template = template_of(model.info, own.choice(("g1x", "g1x", "g1x", "function_calling")))
            messages = [Message(Role(one["role"]), one["content"]) for one in case.messages]
            messages += [Message(Role.ASSISTANT, opening)] if opening else []
            rendered = render(template, messages, "", ThinkMode.NONE, bool(opening), offered)
            most = own.choice((24, 120, 120, 120))
            params = SamplingParams(temperature=heat, top_p=own.choice((0.5, 0.9, 1.0)), max_tokens=most, seed=number)
            made = generate(manager, rendered, params)
            text = opening + model.tokenizer.decode(made.text.token_ids)
            return {
                "dialect": dialect.name,
                "format": template.name,
                "opening": opening,
                "temperature": heat,
                "is_cut": len(made.text.token_ids) >= most,
                "names": [tool["name"] for tool in case.tools],
                "text": text,
            }

        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                made = list(pool.map(one, rng.sample(range(10**6), count)))
        finally:
            manager.close()
    return list({shape_of(row["text"]): row for row in made}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for row in record(args.count, args.seed):
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
