"""The time from choosing a state to the first token that starts from it. Prints one JSON document.

    python -m tests.acceptance.hot_apply [--models DIR] [--model NAME] [--strategy auto] [--repeat 20]

Uses a real engine process with the model, two states made from texts, and the form of the page. ``apply_ms`` is the
time until the response to that form, ``first_token_ms`` the time from posting it to the first token of an answer
requested right after. Another answer is generated all the time: ``running_kept_its_state`` means that it never changed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from webapp.engine.outputs import GenerationRequest, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.handles import RequestHandle
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.resources import resource_dir
from webapp.settings import Settings
from webapp.web.app import create_app

TEXTS = {
    "anna": "User: My name is Anna and I have a cat called Tom.\n\nAssistant: Nice to meet you, Anna!\n\n",
    "sky": "User: Tell me about the sky.\n\nAssistant: The sky is blue by day and black by night.\n\n",
}
PROMPT = "User: What is my name?\n\nAssistant:"
OWN = {"Origin": "http://127.0.0.1"}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=resource_dir("models"))
    parser.add_argument("--model", default="")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The states get their own folder; the model is only read."""
    settings = Settings(
        data_dir=folder, models_dir=folder, model=args.model, strategy=args.strategy, requests_per_s=1e6, threads=1
    )
    manager = ModelManager(settings, library=ModelLibrary(folder, args.models))
    app = create_app(settings, manager)
    try:
        states = app.extensions["states"]
        for name, text in TEXTS.items():
            job = states.jobs.wait(states.make(text, name).id, 600)
            assert job.status == "done", job
        return run(manager, app.test_client(), args.repeat)
    finally:
        app.extensions["close"]()


def run(manager: ModelManager, browser: Any, repeat: int) -> dict[str, Any]:
    tokenizer = manager.tokenizer()
    ids = tuple(tokenizer.encode(PROMPT))
    running = manager.submit(request(ids, 100_000))
    first_token(running)
    applied, first, digests = [], [], set()
    for turn in range(repeat):
        name = f"{list(TEXTS)[turn % 2]}.safetensors"
        started = time.perf_counter()
        answer = browser.post("/states/use", base_url="http://127.0.0.1", headers=OWN, data={"name": name})
        assert answer.status_code == 303, answer.get_data(as_text=True)
        applied.append(1000 * (time.perf_counter() - started))
        # a different token before each prompt, so that cached states from earlier prompts do not help
        handle = manager.submit(request((turn + 1, *ids), 1))
        first_token(handle)
        first.append(1000 * (time.perf_counter() - started))
        digests.add(handle.service.state.digest)
    running.abort()
    kept = [event.stats for event in running.events(60) if isinstance(event, TokenOutput) and event.stats][-1]
    return {
        "apply_ms": spread(applied),
        "first_token_ms": spread(first),
        "repeat": repeat,
        "states_used": len(digests),
        "running_kept_its_state": kept.initial_state_digest not in digests,
        "running_tokens": kept.decoded_tokens,
        "model": manager.status().model,
        "strategy": manager.status().strategy,
        "prompt_tokens": len(ids) + 1,
    }


def request(ids: tuple[int, ...], max_tokens: int) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=1, stop_token_ids=())
    return GenerationRequest(uuid.uuid4().hex, ids, params)


def first_token(handle: RequestHandle) -> None:
    for event in handle.events(600):
        if isinstance(event, TokenOutput):
            assert event.error is None, event.error
            return


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    most = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"median": round(statistics.median(ordered), 1), "p95": round(most, 1), "max": round(ordered[-1], 1)}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
    sys.exit(0)
