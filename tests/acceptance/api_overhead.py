"""The overhead of HTTP and the engine process over the engine alone: time to the first token, and tokens per second.

    python -m tests.acceptance.api_overhead [--strategy auto]

Both run the same prompt on the bundled model, one request at a time; medians. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.acceptance.served_roost import STARTER, ServedRoost
from tests.engine.driving import load_backend
from webapp.engine.llm_engine import LLMEngine
from webapp.engine.outputs import GenerationRequest, TokenOutput
from webapp.engine.sampling_params import SamplingParams

TOKENS = 128
Times = tuple[float, float]
"""(seconds to the first token, tokens per second after it)."""


def bare(strategy: str, prompts: list[list[int]]) -> list[Times]:
    backend = load_backend(STARTER, strategy)
    engine = LLMEngine(backend, state_cache_bytes=0)
    try:
        return [one_bare(engine, str(number), prompt) for number, prompt in enumerate(prompts)]
    finally:
        backend.close()


def one_bare(engine: LLMEngine, name: str, prompt: list[int]) -> Times:
    params = SamplingParams(max_tokens=TOKENS, temperature=0, stop_token_ids=(), frequency_penalty=0)
    began = time.perf_counter()
    engine.add_request(GenerationRequest(name, tuple(prompt), params))
    moments: list[float] = []
    while engine.has_work():
        found = sum(len(event.token_ids) for event in engine.step() if isinstance(event, TokenOutput))
        moments += [time.perf_counter()] * found
    return moments[0] - began, (len(moments) - 1) / (moments[-1] - moments[0])


def served(roost: ServedRoost, prompts: list[list[int]]) -> list[Times]:
    return [one_served(roost, prompt) for prompt in prompts]


def one_served(roost: ServedRoost, prompt: list[int]) -> Times:
    asked = {
        "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "frequency_penalty": 0, "stream": True,
        "logit_bias": {"0": -100}, "stream_options": {"include_usage": True},
    }  # fmt: skip
    connection = http.client.HTTPConnection(roost.host, timeout=300)
    began = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
    response = connection.getresponse()
    moments, tokens = [], 0
    for line in iter(response.readline, b""):
        if line.startswith(b"data: {"):
            moments.append(time.perf_counter())
            usage = json.loads(line[6:]).get("usage")
            tokens = usage["completion_tokens"] if usage else tokens
    connection.close()
    return moments[0] - began, (tokens - 1) / (moments[-1] - moments[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--repeat", type=int, default=9)
    args = parser.parse_args()
    prompts = [[40 + (seed * 7 + n) % 200 for n in range(64)] for seed in range(args.repeat + 1)]
    alone = bare(args.strategy, prompts)[1:]
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--strategy", args.strategy, "--state-cache-bytes", "0")
        with ServedRoost(Path(folder), *flags) as roost:
            over_http = served(roost, prompts)[1:]
    first = [1000 * statistics.median(times[0] for times in rows) for rows in (alone, over_http)]
    speed = [statistics.median(times[1] for times in rows) for rows in (alone, over_http)]
    found = {
        "strategy": args.strategy,
        "first_token_ms": {
            "bare": round(first[0], 2),
            "served": round(first[1], 2),
            "added": round(first[1] - first[0], 2),
        },
        "tokens_per_s": {
            "bare": round(speed[0], 1),
            "served": round(speed[1], 1),
            "ratio": round(speed[1] / speed[0], 3),
        },
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
