"""Measures the structure of the code and the path of a request through it.

    python -m tests.acceptance.house [--skip-speed]

Prints a table and, as the last line, one JSON document; docs/architecture.md lists the figures. The requests run on the
fake backend inside the web process, so that every thread and every call is visible; the profiler slows them down, so
they are not timed. Speed is measured separately, without it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from types import FrameType
from typing import Any

from webapp.engine.backend import Backend
from webapp.storage.database import Database

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "webapp"
SMALL_MODULE_LINES = 60
ANSWER = "Ten tokens"
BATCH_SIZES = (1, 8, 32, 128)


def code_size() -> dict[str, int]:
    """Lines and modules of the package, and the small modules with only one importer."""
    paths = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in paths.items()}
    importers: Counter[str] = Counter()
    for name, path in paths.items():
        importers.update(imported_modules(path, name, paths.keys()) - {name})
    alone = [name for name, path in paths.items() if importers[name] == 1 and path.name != "__init__.py"]
    return {
        "lines": sum(lines.values()),
        "modules": len(paths),
        "modules_with_one_importer": len(alone),
        "small_modules_with_one_importer": sum(lines[name] <= SMALL_MODULE_LINES for name in alone),
    }


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, name: str, known: Any) -> set[str]:
    """The package's modules that ``path`` imports anywhere; ``from package import module`` counts the module."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.update({whole} if whole in known else {base} & set(known))
    return found


BEATS = ("roost-engine-watch", "roost-engine-heart")
"""Threads that check for heartbeats every second, independent of requests; they are not counted."""


class CallTracer:
    """Counts the package's code that runs in all threads started after its creation, except :data:`BEATS`."""

    def __init__(self) -> None:
        self._is_on = False
        self._files: set[str] = set()
        self._threads: set[int] = set()
        self._calls = 0
        self._transactions = 0
        threading.setprofile(self._on_event)

    def on_statement(self, statement: str) -> None:
        self._transactions += self._is_on and statement.startswith("BEGIN")

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        is_counted = self._is_on and event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE))
        if is_counted and threading.current_thread().name not in BEATS:
            self._files.add(frame.f_code.co_filename)
            self._threads.add(threading.get_ident())
            self._calls += 1

    def count(self, trip: Callable[[], object]) -> dict[str, int]:
        """Runs the request once to warm up (caches, imports) and once counted."""
        for self._is_on in (False, True):
            self._files, self._threads, self._calls, self._transactions = set(), set(), 0, 0
            trip()
            time.sleep(0.5)  # waits for work after the last frame, such as the journal's last row
        self._is_on = False
        return {
            "files": len(self._files),
            "calls": self._calls,
            "database_connections": self._transactions,
            "threads": len(self._threads),
        }


def trips() -> dict[str, dict[str, int]]:
    """The paths of one chat message, one streamed API answer and one preset page."""
    from tests.web.chat.running_roost import RunningRoost, fake_strategy

    tracer = CallTracer()
    with database_traced(tracer), tempfile.TemporaryDirectory() as folder:
        roost = RunningRoost(Path(folder), fake_strategy(ANSWER))
        try:
            roost.answered()
            preset = next(iter(roost.app.extensions["presets"].list())).id
            chat_id = roost.answered()
            page = roost.socket()
            page.open(chat_id)
            page.until_type("answering")
            message = tracer.count(lambda: send_message(page, chat_id))
            page.close()  # an open page shows the status of every answer, also of an API's
            time.sleep(1.0)
            return {
                "chat_message": message,
                "api_stream": tracer.count(lambda: stream_answer(roost.port)),
                "chat_page": tracer.count(lambda: roost.get(f"/chat/{chat_id}")),
                "preset_page": tracer.count(lambda: roost.get(f"/presets/{preset}")),
            }
        finally:
            roost.stop()
            threading.setprofile(None)  # type: ignore[arg-type]


@contextlib.contextmanager
def database_traced(tracer: CallTracer) -> Iterator[None]:
    """Every database opened inside reports its statements to the tracer."""
    plain = Database.__init__
    Database.__init__ = partialmethod(plain, trace=tracer.on_statement)  # type: ignore[assignment]
    try:
        yield
    finally:
        Database.__init__ = plain  # type: ignore[method-assign]


def send_message(page: Any, chat_id: str) -> None:
    page.send(do="send", chat=chat_id, text="Why?", sent_as="m1")
    page.until_type("finished")


def stream_answer(port: int) -> None:
    asked = {"messages": [{"role": "user", "content": "Why?"}], "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200 and "[DONE]" in text, text


def fake_backend(batch_size: int) -> Backend:
    from webapp.backends.fake import FakeBackend, FakeOptions, fake_config

    return FakeBackend(fake_config(vocab_size=65_536), FakeOptions.parse(f"fake slots={batch_size + 1}"))


def native_backend(batch_size: int) -> Backend:
    """The bundled model on one thread, without drafts."""
    from webapp.engine.registry import resolve_strategy
    from webapp.weights.inspection import inspect

    path = ROOT / "models" / "roost-starter-v7.safetensors"
    backend, options = resolve_strategy("native q8 threads=1 draft=0")
    config = inspect(path).config
    assert config is not None
    return backend.load(str(path), config, options, lambda progress: None)


def engine_speed(backend: Backend, batch_size: int, tokens: int = 120) -> float:
    """Microseconds of CPU time per token of engine and sampler, without the backend's model (65,536 logits)."""
    from webapp.engine.llm_engine import LLMEngine
    from webapp.engine.outputs import GenerationRequest, TokenOutput
    from webapp.engine.sampling_params import SamplingParams

    run, spent = backend.step, 0.0

    def timed(*args: Any) -> Any:
        nonlocal spent
        began = time.process_time()
        try:
            logits = run(*args)
            logits.to_numpy([])  # for backends that compute them lazily
            return logits
        finally:
            spent += time.process_time() - began

    backend.step = timed  # type: ignore[method-assign]
    engine = LLMEngine(backend, max_sequences=batch_size, state_cache_bytes=0)
    params = SamplingParams(max_tokens=tokens, seed=1, stop_token_ids=())
    for number in range(batch_size):
        engine.add_request(GenerationRequest(str(number), (number + 1, 2, 3), params))
    while sum(isinstance(event, TokenOutput) for event in engine.step()) < batch_size:
        pass  # all are prefilled and decode together
    spent, produced, began = 0.0, 0, time.process_time()
    while engine.has_work():
        produced += sum(len(event.token_ids) for event in engine.step() if isinstance(event, TokenOutput))
    found = (time.process_time() - began - spent) / produced * 1e6
    backend.close()
    return found


def import_seconds(statement: str, repeat: int = 7) -> float:
    """The median of new interpreters."""
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    command = [sys.executable, "-c", code]
    found = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True) for _ in range(repeat)]
    return statistics.median(float(each.stdout.split()[-1]) for each in found)


def speed() -> dict[str, Any]:
    wsgi, flask = import_seconds("import wsgi"), import_seconds("import flask")
    per_token = {
        made.__name__.removesuffix("_backend"): {
            str(size): round(statistics.median(engine_speed(made(size), size) for _ in range(3)), 1)
            for size in BATCH_SIZES
            if made is fake_backend or size <= 64
        }
        for made in (fake_backend, native_backend)
    }
    return {
        "import_s": {"wsgi": round(wsgi, 3), "flask": round(flask, 3), "ratio": round(wsgi / flask, 2)},
        "engine_and_sampler_us_a_token": per_token,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-speed", action="store_true", help="count only")
    args = parser.parse_args()
    found: dict[str, Any] = {"code": code_size(), "trips": trips()}
    if not args.skip_speed:
        found["speed"] = speed()
    for group, values in found.items():
        for name, value in values.items():
            print(f"{group:8}{name:34}{value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
