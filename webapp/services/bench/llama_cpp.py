"""llama.cpp beside Roost, through the package ``xllamacpp`` where it is installed: its own server, in a process of its
own, asked with token ids (:mod:`.llama_worker`). It reads a GGUF file, so the same model has to be there in that form.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time

from webapp.errors import RequestError
from webapp.i18n import Text
from webapp.services.bench.speed import FIRST_PROMPT_TOKENS, default_threads, peak_mb, rss_mb

PACKAGE = "xllamacpp"
BOOT = "import sys; sys.path[:] = sys.argv[4:]; from webapp.services.bench.llama_worker import serve; serve()"


class LlamaContestant:
    def __init__(self, name: str, path: str, threads: int = 0, most_sequences: int = 1) -> None:
        self.name = name
        self._setup = [path, str(threads or default_threads()), str(most_sequences)]
        self._process: subprocess.Popen[str] | None = None

    def load(self) -> dict[str, float]:
        if importlib.util.find_spec(PACKAGE) is None:
            raise RequestError(reason=Text("reason.services.llama_cpp_package_missing", package=PACKAGE))
        started = time.monotonic()
        command = [sys.executable, "-c", BOOT, *self._setup, *sys.path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()
        load_s = time.monotonic() - started
        first = self._ask(1, FIRST_PROMPT_TOKENS, 1)
        return {"load_s": load_s, "cold_ms": 1000 * load_s + first["first_token_ms"]}

    def decode(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
        return self._ask(sequences, prompt_tokens, tokens)

    def prefill(self, tokens: int) -> dict[str, float]:
        run = self._ask(1, tokens, 1)
        return {"tokens_per_s": run["prefill_tokens_per_s"], "first_token_ms": run["first_token_ms"]}

    def memory(self) -> dict[str, float | None]:
        pid = self._process.pid if self._process else None
        return {"rss_mb": rss_mb(pid), "peak_mb": peak_mb(pid)}

    def close(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
        assert self._process is not None and self._process.stdin is not None, "load() comes first"
        self._process.stdin.write(json.dumps([sequences, prompt_tokens, tokens]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RequestError(reason=Text("reason.services.llama_cpp_failed", code=str(self._process.wait())))
        found: dict[str, float] = json.loads(line)
        return found
