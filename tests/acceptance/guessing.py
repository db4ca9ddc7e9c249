"""The gain of drafts (docs/native.md): tokens per second of CPU time, alternately with and without them.

    python -m tests.acceptance.guessing [--strategy "native q4"] [--drafts 0 8 15] [--at-once 4] [--only WORD] [--small]

The bundled model is widened from 6 x 192 to 12 x 768 (not with ``--small``): every channel four times, matrices divided
by four, each layer followed by a copy that adds nothing. It writes the same text as the small one at the cost of 0.19B.
It writes lists, records and repeated words itself, as in its training; other answers are replayed: each token is
computed and sampled, then replaced with the given one. One thread. Fails if a text differs.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from models.starter.data.copying import as_json, json_list, repeat_many
from models.starter.data.words import Words
from tests.acceptance.served_roost import ROOT, STARTER
from tests.engine.driving import GREEDY, request
from tests.weights.make_checkpoints import Arrays, write_tensors
from webapp.engine.llm_engine import LLMEngine
from webapp.engine.outputs import TokenOutput
from webapp.engine.registry import resolve_strategy
from webapp.engine.scheduler import SequenceStatus
from webapp.tokenizer import load_tokenizer
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.inspection import inspect

COPIES = 4


def widened(arrays: Arrays) -> Arrays:
    found: Arrays = {}
    for name, value in arrays.items():
        last, across = name.split(".")[-1], name == "head.weight" or re.search(r"\.[wavg]1$", name) is not None
        if last == "r_k" or re.search(r"\.[wavg]1$", name):
            made = np.tile(value, (COPIES, 1))
        elif value.ndim == 2 and last == "weight" and name.startswith("blocks."):
            made, across = np.tile(value, (COPIES, COPIES)), True
        else:
            made = np.tile(value, COPIES)
        made = made / COPIES if across else made
        if (parts := name.split(".", 2))[0] != "blocks":
            found[name] = made
            continue
        found[f"blocks.{2 * int(parts[1])}.{parts[2]}"] = made
        if not parts[2].startswith("ln0"):
            is_out = parts[2] in ("att.output.weight", "ffn.value.weight")
            found[f"blocks.{2 * int(parts[1]) + 1}.{parts[2]}"] = np.zeros_like(made) if is_out else made
    return found


def tasks() -> dict[str, list[tuple[str, str]]]:
    """Prompts and answers; "" if the model writes the answer."""
    words, rng = Words(random.Random(1), held_out=True), random.Random(2)

    def longest(make: Any) -> list[tuple[str, str]]:
        asked = sorted((make(words, False) for _ in range(200)), key=lambda pair: len(pair[1]))[-8:]
        return [(f"User: {user}\n\nAssistant:", "") for user, _ in asked]

    def code(name: str, old: str, new: str) -> tuple[str, str]:
        text = (ROOT / "webapp" / name).read_text(encoding="utf-8")[:2200]
        return f"User: {text}\n\nRename {old} to {new}.\n\nAssistant:", re.sub(rf"\b{old}\b", new, text)

    def record() -> dict[str, Any]:
        who, where = rng.choice(("Anna Weber", "Li Wei", "Mia Okafor")), rng.choice(("Berlin", "Shanghai", "Lagos"))
        return {"id": rng.randrange(1000, 9999), "name": who, "city": where, "is_open": True}

    def closed(indent: int | None) -> tuple[str, str]:
        rows = [record() for _ in range(12)]
        before = json.dumps(rows, indent=indent)
        rows[3]["is_open"] = rows[8]["is_open"] = False
        return f"User: {before}\n\nClose two.\n\nAssistant:", json.dumps(rows, indent=indent)

    text = (ROOT / "docs" / "native.md").read_text(encoding="utf-8")
    paragraphs = [each for each in text.split("\n\n") if 300 < len(each) < 900 and "|" not in each]

    def quotations() -> tuple[str, str]:
        """Half of the answer is quoted."""
        chosen = rng.sample(paragraphs, 8)
        answer = "".join(f'{own[:150]}: "{said[:300]}"\n' for own, said in zip(chosen[4:], chosen[:4], strict=True))
        return "User: " + "\n\n".join(chosen[:4]) + "\n\nQuote.\n\nAssistant: ", answer

    return {
        "written: lists and records as JSON": longest(as_json) + longest(json_list),
        "written: words repeated": longest(repeat_many),
        "code, a name changed": [
            code("engine/probe.py", "token_ids", "ids"),
            code("engine/state.py", "config", "shape"),
            code("engine/registry.py", "name", "key"),
            code("engine/outputs.py", "tokens", "ids"),
        ],
        "JSON, two values changed": [closed(None), closed(2), closed(None), closed(2)],
        "quotations": [quotations() for _ in range(4)],
        "prose": [("User: Go on.\n\nAssistant: " + text[:600], text[at : at + 700]) for at in range(9000, 13000, 1000)],
    }


class Replaying:
    """A backend whose sampled tokens are those of ``answers``, by seed and position."""

    def __init__(self, backend: Any, answers: list[list[int]], draft_tokens: int) -> None:
        self._backend, self._answers, self.draft_tokens = backend, answers, draft_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, batch: Any) -> Any:
        logits = self._backend.step(batch)
        draw = logits.sample

        def sample(lines: Any, wanted: Any) -> Any:
            sampled = draw(lines, wanted)
            drawn = zip(sampled.token_ids.tolist(), wanted.seed.tolist(), wanted.position.tolist(), strict=True)
            ids = [self._answers[seed][position] if self._answers[seed] else own for own, seed, position in drawn]
            return replace(sampled, token_ids=np.array(ids, np.int32))

        logits.sample = sample
        return logits


def run(backend: Any, asked: list[tuple[list[int], list[int]]], draft: int) -> tuple[list[list[int]], float, float]:
    """The answers; tokens and CPU seconds after the last prompt."""
    replaying: Any = Replaying(backend, [answer for _, answer in asked], draft)
    engine = LLMEngine(replaying, max_sequences=len(asked), state_cache_bytes=0)
    for number, (prompt, answer) in enumerate(asked):
        engine.add_request(request(str(number), prompt, max_tokens=len(answer) or 100, seed=number, **GREEDY))
    found: list[list[int]] = [[] for _ in asked]
    began, before = 0.0, 0
    while engine.has_work():
        for event in engine.step():
            if isinstance(event, TokenOutput):
                found[int(event.request_id)] += event.token_ids
        if not began and all(each.status is not SequenceStatus.PREFILLING for each in engine.scheduler.running):
            began, before = time.process_time(), sum(map(len, found))
    return found, sum(map(len, found)) - before, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="native q8")
    parser.add_argument("--drafts", type=int, nargs="+", default=[0, 15])
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_checkpoint(STARTER) as source:
        path = Path(folder) / "wide.safetensors"
        if args.small:
            path = STARTER
        else:
            write_tensors(path, widened({name: np.asarray(source.array(name), np.float32) for name in source.names()}))
        cls, options = resolve_strategy(args.strategy, threads=1)
        config = inspect(path).config
        assert config is not None
        backend = cls.load(str(path), config, options, lambda progress: None)
    tokenizer = load_tokenizer(config.vocab_size, STARTER)
    for name, pairs in tasks().items():
        asked = [(tokenizer.encode(prompt), tokenizer.encode(answer)) for prompt, answer in pairs if args.only in name]
        speeds: dict[int, list[float]] = {draft: [] for draft in args.drafts if asked}
        for _ in range(args.rounds):
            tokens, seconds = dict.fromkeys(speeds, 0.0), dict.fromkeys(speeds, 0.0)
            for at in range(0, len(asked), args.at_once):
                texts = []
                for draft in speeds:
                    text, count, spent = run(backend, asked[at : at + args.at_once], draft)
                    tokens[draft] += count
                    seconds[draft] += spent
                    texts.append(text)
                assert all(text == texts[0] for text in texts), (name, at)
            for draft, found in speeds.items():
                found.append(tokens[draft] / seconds[draft])
        for draft, found in speeds.items():
            ratios = sorted(each / first for each, first in zip(found, speeds[args.drafts[0]], strict=True))
            print(
                f"{name:<36} draft {draft:>2}: {statistics.median(found):6.1f} tokens/s,"
                f" {statistics.median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
