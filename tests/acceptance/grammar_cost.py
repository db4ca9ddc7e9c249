"""The cost of constraining an answer to a JSON schema on the bundled model, and of compiling schemas.

    python -m tests.acceptance.grammar_cost

Prints one JSON document. ``ratio`` is tokens/s with a schema over tokens/s without one, the same number of tokens and
the median of runs that take turns. Meaningful on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.acceptance.served_roost import ROOT
from tests.acceptance.tool_cases import random_schema
from webapp.engine.outputs import GenerationRequest, SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.handles import RequestHandle
from webapp.manager.manager import ModelManager
from webapp.services.bench.speed import machine, prompt_ids
from webapp.settings import Settings
from webapp.structured.grammar import lark_source, parser_limits
from webapp.structured.grammar_constraint import llguidance_tokenizer
from webapp.tokenizer import Tokenizer, load_tokenizer

SCHEMAS = 20
LINES = 300
ENDLESS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer"},
        },
        "required": ["name", "unit", "days"],
        "additionalProperties": False,
    },
    "minItems": 1_000,
}
"""Never complete within a run, so that both ways write the same number of tokens."""


def speed(manager: ModelManager, tokens: int, schema: Mapping[str, Any] | None, seed: int) -> float:
    """Decoded tokens/s. Without a schema, the end of text is banned, so that the length is the same."""
    bias = {} if schema else {"logit_bias": {0: -100.0}}
    params = SamplingParams(max_tokens=tokens, temperature=1.0, stop_token_ids=(), seed=seed, **bias)
    constraint = {"kind": "json_schema", "schema": schema} if schema else None
    prompt = prompt_ids(manager, 32)
    request = GenerationRequest(uuid.uuid4().hex, prompt, params, client="cost", constraint=constraint)
    stats = stats_of(manager.submit(request))
    assert stats.decoded_tokens == tokens, f"{stats.decoded_tokens} of {tokens} tokens"
    return (stats.decoded_tokens - 1) / stats.decode_s


def stats_of(handle: RequestHandle) -> SequenceStats:
    while True:
        event = handle.next_event(60)
        if isinstance(event, TokenOutput) and event.finish_reason is not None:
            assert event.stats is not None, event
            return event.stats


def speeds(tokens: int, repeat: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), models_dir=ROOT / "models", state_cache_bytes=0)
        manager = ModelManager(settings)
        try:
            manager.load()
            manager.wait_ready()
            for schema in (None, ENDLESS):
                speed(manager, tokens, schema, 0)  # the first of a process loads the vocabulary
            rows = [(speed(manager, tokens, None, n), speed(manager, tokens, ENDLESS, n)) for n in range(1, repeat + 1)]
        finally:
            manager.close()
    free, held = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "tokens": tokens, "repeat": repeat, "free_tokens_per_s": round(free, 1), "held_tokens_per_s": round(held, 1),
        "ratio": round(held / free, 3), "ratios": [round(b / a, 3) for a, b in rows],
    }  # fmt: skip


def long_schema(lines: int) -> dict[str, Any]:
    """At least this many lines when indented as people write it."""
    rng, properties = random.Random("long"), {}
    while len(json.dumps(_object(properties), indent=2).splitlines()) < lines:
        properties[f"field_{len(properties)}"] = random_schema(rng, 2)
    return _object(properties)


def compile_times(tokenizer: Tokenizer) -> dict[str, Any]:
    """Milliseconds to the first mask, for random schemas and a long one."""
    rng = random.Random("compile")
    made = [_object({f"p{i}": random_schema(rng, 1) for i in range(4)}) for _ in range(SCHEMAS - 1)]
    schemas = [*made, long_schema(LINES)]
    started = time.perf_counter()
    vocabulary = llguidance_tokenizer(tokenizer)
    vocabulary_ms = 1000 * (time.perf_counter() - started)
    times = [_compile_ms(vocabulary, schema) for schema in schemas]
    return {
        "schemas": len(schemas), "vocabulary_ms": round(vocabulary_ms, 1),
        "median_ms": round(statistics.median(times), 1), "most_ms": round(max(times), 1),
        "long_schema_lines": len(json.dumps(schemas[-1], indent=2).splitlines()),
        "long_schema_ms": round(times[-1], 1),
    }  # fmt: skip


def _compile_ms(vocabulary: Any, schema: dict[str, Any]) -> float:
    from llguidance import LLMatcher

    started = time.perf_counter()
    source = lark_source({"kind": "json_schema", "schema": schema})
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(source), log_level=0, limits=parser_limits())
    matcher.compute_bitmask()
    assert not matcher.is_error(), matcher.get_error()
    return 1000 * (time.perf_counter() - started)


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    leaf = {"$defs": {"leaf": {"type": "boolean"}}}
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **leaf}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=9)
    args = parser.parse_args()
    found = {
        "machine": machine(),
        "compile": compile_times(load_tokenizer(65536)),
        "speed": speeds(args.tokens, args.repeat),
    }
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
