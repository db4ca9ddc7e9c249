"""llama.cpp as a comparison for Roost, through the package ``xllamacpp`` if it is installed: its own server, in its own
process, with token ids as input (:mod:`.llama_worker`). It needs the same model as a GGUF file.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

from webapp.errors import RequestError
from webapp.i18n import Text
from webapp.services.bench.speed import AskedContestant, default_threads

PACKAGE = "xllamacpp"
BOOT = "import sys; sys.path[:] = sys.argv[4:]; from webapp.services.bench.llama_worker import serve; serve()"


class LlamaContestant(AskedContestant):
    def __init__(self, name: str, path: str, threads: int = 0, most_sequences: int = 1) -> None:
        self.name = name
        self._setup = [path, str(threads or default_threads()), str(most_sequences)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        if importlib.util.find_spec(PACKAGE) is None:
            raise RequestError(reason=Text("reason.services.llama_cpp_package_missing", package=PACKAGE))
        command = [sys.executable, "-c", BOOT, *self._setup, *sys.path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def close(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def answers(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
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
