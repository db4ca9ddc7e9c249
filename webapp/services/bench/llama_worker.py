"""The llama.cpp process of ``roost bench --against llama.cpp``: it imports no module of Roost.

``argv``: file, threads, maximum number of simultaneous answers. Each line of standard input is one measurement:
[simultaneous answers, prompt tokens, tokens to write]. The reply is one line of figures.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def serve() -> None:
    path, threads, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # redirects the library's output
    import xllamacpp  # type: ignore[import-not-found]

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel = most
    params.n_ctx = 8192 * most  # shared by the answers
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(json.dumps({}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answers(server, *json.loads(line))), file=replies, flush=True)
    os._exit(0)


def _answers(server: Any, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
    body = {"n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}

    def one(number: int) -> dict[str, float]:
        ids = [1 + (number + 7 * place) % 255 for place in range(prompt_tokens)]
        found: dict[str, float] = server.handle_completions({**body, "prompt": ids})["timings"]
        return found

    started = time.monotonic()
    with ThreadPoolExecutor(sequences) as pool:
        timings = list(pool.map(one, range(sequences)))
    wall_s = time.monotonic() - started
    writing_ms = max(timing["predicted_ms"] for timing in timings)
    read_ms = max(timing["prompt_ms"] for timing in timings)
    return {
        "tokens_per_s": 1000 * sum(timing["predicted_n"] - 1 for timing in timings) / writing_ms,
        "first_token_ms": read_ms,
        "prefill_tokens_per_s": 1000 * sum(timing["prompt_n"] for timing in timings) / read_ms,
        "wall_s": wall_s,
    }
