"""Conversions of model files from a page: the plan of a conversion, and its job.

Each job runs `roost convert` in its own process, so a bad file cannot take the server's memory or stop it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from msgspec import Struct

from webapp.errors import ConversionError, error_from_dict
from webapp.i18n import Text
from webapp.manager.library import ModelLibrary
from webapp.services.jobs import Job, Jobs, Running
from webapp.services.library.placing import check_free, safe_name
from webapp.weights.convert.plan import ConversionOptions, conversion_to, default_name
from webapp.weights.convert.writers import check_target, remove_abandoned

KIND = "conversion"
ROOT = Path(__file__).resolve().parents[2]
CANCEL_TIMEOUT_S = 5.0
LAST_WORDS = 300


class ConversionRequest(Struct, frozen=True):
    """``model`` and ``lora``: names in the library. ``name``: of the new file, "" for the default."""

    model: str
    target: str
    name: str = ""
    strategy: str = ""
    lora: str = ""
    lora_alpha: float | None = None
    overwrite: bool = False
    type: str = ""


class ConversionPlan(Struct, frozen=True):
    """A checked request. ``name``: the new file's name in the library; ``planned_bytes``: the size of its tensors."""

    target: str
    source_path: Path
    target_path: Path
    name: str
    planned_bytes: int
    options: ConversionOptions

    @property
    def is_name_taken(self) -> bool:
        return self.target_path.exists()

    def arguments(self) -> list[str]:
        """Arguments of the `roost` command. Paths are absolute, so that none looks like an option."""
        out = ["convert", str(self.source_path.absolute()), str(self.target_path.absolute()), "--to", self.target]
        options = self.options
        out += [f"--strategy={options.strategy}"] if options.strategy else []
        out += [f"--type={options.type}"] if options.type else []
        out += [f"--lora={options.lora}"] if options.lora else []
        out += [f"--lora-alpha={options.lora_alpha}"] if options.lora_alpha is not None else []
        out += ["--overwrite"] if options.overwrite else []
        return [*out, "--progress-json", "--cancel-on-eof"]


class Conversions:
    """``app.extensions["conversions"]``."""

    def __init__(self, library: ModelLibrary, jobs: Jobs) -> None:
        self._library = library
        self._jobs = jobs
        self._lock = threading.Lock()

    def strategies(self) -> tuple[str, ...]:
        """The usual strategies for a file with target "fast"."""
        from webapp.backends.rwkv_pip.strategy import FAST_FILE_STRATEGIES

        return FAST_FILE_STRATEGIES

    def check(self, request: ConversionRequest) -> ConversionPlan:
        """The plan: what to write and where; an existing file is only reported. Reads headers only.

        Raises ModelNotFound, ``file_name_unusable``, ``conversion_refused`` and similar, StrategyError.
        """
        library = self._library
        source = library.find(request.model)
        lora = str(library.find(request.lora)) if request.lora else ""
        options = ConversionOptions(
            request.strategy.strip(), lora, request.lora_alpha, request.overwrite, type=request.type
        )
        ending = conversion_to(request.target, source.name).ending
        wanted = request.name.strip() or default_name(source.name, request.target, options)
        is_beside = library.folder_of(source) and source.parent != library.bundled_dir
        folder = source.parent if is_beside else library.models_dir
        target_path = folder / safe_name(wanted if wanted.lower().endswith(ending) else wanted + ending, (ending,))
        for path in (source, Path(lora) if lora else source):
            if target_path.exists() and target_path.samefile(path):
                reason = Text("reason.services.output_is_input")
                way_out = Text("reason.common.choose_another_name")
                raise ConversionError.refused(source.name, request.target, reason, way_out)
        planned_bytes = library.reader.planned_bytes(source, request.target, options)
        return ConversionPlan(request.target, source, target_path, library.name_of(target_path), planned_bytes, options)

    def start(self, request: ConversionRequest) -> Job:
        """Adds a job to the queue. Raises errors of :meth:`check`, ``conversion_target_exists`` and ``disk_full``."""
        plan = self.check(request)
        check_target(plan.target_path, plan.options.overwrite)
        check_free(plan.target_path.parent, plan.planned_bytes)
        path = str(plan.target_path)
        details = {"path": path, "model": request.model, "target": request.target}
        details |= {"strategy": request.strategy, "lora": request.lora}
        with self._lock:
            if any(job.details["path"] == path and not job.is_over for job in self._jobs.jobs(KIND)):
                raise ConversionError("conversion_target_exists", path=plan.target_path.name)
            work = lambda running: self._convert(plan, running)  # noqa: E731
            return self._jobs.start(KIND, plan.name, work, details, total=plan.planned_bytes)

    def _convert(self, plan: ConversionPlan, running: Running) -> dict[str, Any]:
        try:
            done = run_program(plan.arguments(), running)
        except Exception:
            remove_abandoned(plan.target_path.parent)
            raise
        self._library.watch.look_again()
        return {"size_bytes": done["size_bytes"], "seconds": done["seconds"]}


def run_program(arguments: list[str], running: Running) -> dict[str, Any]:
    """Runs `roost convert`; returns its last event or raises its error. The program cancels itself when its standard
    input closes, also if this process dies, and is killed if it does not; no partial file remains."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "webapp.cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

        def cancel() -> None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            killer = threading.Timer(CANCEL_TIMEOUT_S, process.kill)
            killer.daemon = True
            killer.start()

        with process:
            running.on_stop(cancel)
            assert process.stdout is not None
            for line in process.stdout:
                last = _event(line) or last
                if last.get("event") == "progress":
                    running.report(last["done_bytes"], phase=last["phase"])
            code = process.wait()
        if last.get("event") == "failed":
            raise error_from_dict(last["error"])
        if last.get("event") != "done" or code != 0:
            errors.seek(0)
            last_words = errors.read().decode("utf-8", "replace").strip()[-LAST_WORDS:]
            raise ConversionError(reason=Text("reason.services.process_ended", code=code, words=last_words or "—"))
    return last


def _event(line: bytes) -> dict[str, Any]:
    """{} for a line that is not an event, such as output of a library."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "event" in found else {}
