"""`roost convert` in a process of its own: the server keeps its memory and answers on, whatever a file does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.errors import ConversionCancelled, ConversionError, error_from_dict
from webapp.services.conversion.order import ReadyOrder
from webapp.weights.convert.progress import ConversionProgress

ROOT = Path(__file__).resolve().parents[3]
CANCEL_TIMEOUT_S = 5.0
LAST_WORDS = 300


@dataclass(frozen=True)
class ConversionOutcome:
    size_bytes: int
    seconds: float


class ConversionProcess:
    """Starts at once. Its standard input is its leash: when that ends, also because this process died, it cancels."""

    def __init__(self, ready: ReadyOrder) -> None:
        self._is_cancelled = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in wait
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "webapp.cli", *arguments(ready)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

    def wait(self, report: Callable[[ConversionProgress], None]) -> ConversionOutcome:
        """Until it ends; ConversionCancelled or what it failed with."""
        last: dict[str, Any] = {}
        with self._process, self._errors:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                last = _read(line) or last
                if last.get("event") == "progress":
                    report(ConversionProgress(**{key: value for key, value in last.items() if key != "event"}))
            code = self._process.wait()
            if last.get("event") == "failed":
                raise error_from_dict(last["error"])
            if self._is_cancelled and last.get("event") != "done":
                raise ConversionCancelled()
            if last.get("event") != "done" or code != 0:
                raise ConversionError(reason=f"its process ended with code {code} {self._last_words()}".strip())
        return ConversionOutcome(last["size_bytes"], last["seconds"])

    def cancel(self) -> None:
        """Asks, and does not wait; after a while it is killed, which leaves no half file either."""
        self._is_cancelled = True
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        killer = threading.Timer(CANCEL_TIMEOUT_S, self._process.kill)
        killer.daemon = True
        killer.start()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip()[-LAST_WORDS:]


def arguments(ready: ReadyOrder) -> list[str]:
    """Paths are absolute, so none reads as an option."""
    out = ["convert", str(ready.source_path.absolute()), str(ready.target_path.absolute()), "--to", ready.target]
    options = ready.options
    out += [f"--strategy={options.strategy}"] if options.strategy else []
    out += [f"--lora={options.lora}"] if options.lora else []
    out += [f"--lora-alpha={options.lora_alpha}"] if options.lora_alpha is not None else []
    out += ["--overwrite"] if options.overwrite else []
    return [*out, "--progress-json", "--cancel-on-eof"]


def _read(line: bytes) -> dict[str, Any]:
    """Empty for what is not ours: a library may print."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "event" in found else {}
