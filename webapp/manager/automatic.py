"""Engine "automatic": chooses a strategy for a model if the user did not, and builds an engine for it if needed.

Every backend suggests strategies (``engine.registry``); the best one that runs and fits is used. If a better backend
has to be built first, such as the native engine's library, it is built in the background while the next best one
answers. Then the model is loaded again with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from webapp.engine.backend import RAM, Availability, Backend
from webapp.engine.registry import Candidates, backends
from webapp.errors import RoostError
from webapp.manager.health import available_bytes
from webapp.manager.nvidia import GPUS
from webapp.weights.inspection import Inspection

logger = logging.getLogger(__name__)

COMPILING, NO_COMPILER, FAILED = "compiling", "no_compiler", "failed"
"""Notes: why a better engine is not used."""
REMEMBERED_S = 10.0
"""How long the answers of the backends are used again, unless a load or a build comes first: every open page asks for
the status once a second."""


class _Answers:
    """What the backends answered about a model."""

    def __init__(self, inspection: Inspection) -> None:
        self.until = time.monotonic() + REMEMBERED_S
        self.inspection = inspection
        self.candidates = Candidates(inspection)
        self.unbuilt: list[tuple[type[Backend], Availability, int]] = []
        """Each with its state and the rank of its best suggestion."""
        for backend in backends():
            state = backend.availability()
            if not state.is_ready and (ranks := [one.rank for one in backend.suggestions(inspection)]):
                self.unbuilt.append((backend, state, min(ranks)))


class AutomaticEngine:
    """``on_note(note)`` is called when the reason why a better engine is not used changes ("" for none); ``on_ready()``
    is called when an engine was built. Both may be called from other threads. Safe to use from any thread."""

    def __init__(self, on_note: Callable[[str], object], on_ready: Callable[[], object]) -> None:
        self._on_note, self._on_ready = on_note, on_ready
        self._lock = threading.Lock()
        self._builds: dict[type[Backend], str] = {}  # a note
        self._note = ""
        self._answers: _Answers | None = None

    def strategy(self, inspection: Inspection, in_use: str = "", reclaimable_bytes: int = 0) -> str:
        """``in_use``: the strategy that ``auto`` chose for the loaded file. It is kept unless a better backend is
        available now, even if the free memory has changed. ``reclaimable_bytes`` of main memory are freed before a
        load. Errors as in :meth:`Candidates.best`."""
        free = {RAM: available_bytes() + reclaimable_bytes}
        free |= {f"cuda:{gpu.index}": gpu.vram_free for gpu in GPUS.read()}
        with self._lock:
            answers = self._answers
            if answers is None or answers.inspection is not inspection or time.monotonic() > answers.until:
                answers = self._answers = _Answers(inspection)
            ranks, found = answers.candidates.ranks, answers.candidates.best(free)
            if in_use and (ranks.get(in_use, 0) <= ranks[found] or in_use.split()[0] == found.split()[0]):
                found = in_use
            self._see_to_better_ones(answers, ranks.get(found, 0))
        return found

    def ask_again(self) -> None:
        """The next call asks the backends again. For a load: something may have been installed since."""
        with self._lock:
            self._answers = None

    def _see_to_better_ones(self, answers: _Answers, rank: int) -> None:
        """Builds backends that are better than a strategy of this rank, or notes why that is not possible."""
        note = ""
        for backend, state, best in answers.unbuilt:
            if best >= rank:
                continue
            if not state.is_available:
                note = note or (FAILED if state.has_failed else NO_COMPILER)
                continue
            if backend not in self._builds:
                self._builds[backend] = COMPILING
                threading.Thread(target=self._prepare, args=(backend,), name="roost-build", daemon=True).start()
            note = self._builds[backend]
        self._tell(note)

    def _prepare(self, backend: type[Backend]) -> None:
        """Runs at most once per process and backend: a failed build is not repeated."""
        found = ""
        try:
            backend.prepare()
        except RoostError as exc:
            logger.warning("%s", exc)
            found = FAILED
        with self._lock:
            self._builds[backend] = found
            self._answers = None
            self._tell(found)
        if not found:
            self._on_ready()

    def _tell(self, note: str) -> None:
        is_new, self._note = note != self._note, note
        if is_new:
            self._on_note(note)
