"""What fits into this machine: its free memory and its GPUs, whether a model fits, alone or temporarily with another,
and which strategy ``auto`` chooses for it; what an engine held, and whether memory ran out.

Every backend suggests strategies (``engine.registry``); ``auto`` uses the best one that runs and fits. If a better
backend has to be built first, such as the native engine's library, it is built in the background while the next best
one answers. Then the model is loaded again with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from webapp.engine.backend import RAM, Availability, Backend, Footprint
from webapp.engine.registry import Candidates, backends, resolve_strategy
from webapp.errors import ModelError, RoostError
from webapp.i18n import Text
from webapp.weights.inspection import Inspection

if TYPE_CHECKING:
    from webapp.manager.target import Target

logger = logging.getLogger(__name__)

CGROUP = Path("/sys/fs/cgroup")
LOW_SHARE = 0.05
"""If less than this share of the machine's memory was free shortly before the end, memory counts as exhausted."""
OUT_OF_MEMORY = re.compile(
    r"MemoryError|OutOfMemoryError|out of memory|can't allocate memory|cannot allocate memory|not enough memory"
    r"|DefaultCPUAllocator|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


class MemoryFacts(Struct, frozen=True):
    """Bytes, measured while the engine ran: its own memory, the machine's total and free memory.

    ``oom_kills``: how many processes the system had killed for lack of memory by then; None if it does not count them.
    """

    engine_bytes: int
    total_bytes: int
    available_bytes: int
    oom_kills: int | None = None

    @property
    def is_low(self) -> bool:
        return self.available_bytes < LOW_SHARE * self.total_bytes

    def sentence(self) -> Text:
        sizes = (self.engine_bytes, self.total_bytes, self.available_bytes)
        engine, total, free = (f"{value / 1e9:.1f} GB" for value in sizes)
        params = {"engine": engine, "total": total, "free": free}
        return Text("reason.manager.memory_when_last_seen", **params)


def available_bytes() -> int:
    """The memory that programs can still get, within the limit of a container."""
    import psutil  # at first use: it takes a while to import

    free: int = psutil.virtual_memory().available
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return min(free, int(limit) - used) if limit.isdigit() else free


def oom_kills() -> int | None:
    """How many processes the system has killed for lack of memory: in this process's control group if that is counted,
    otherwise on the machine. None if neither is counted (not Linux)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    places: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places.append(CGROUP / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            places.append(CGROUP / "memory" / path.lstrip("/") / "memory.oom_control")
    for place in (*places, Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in place.read_text(encoding="ascii").splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return None


def memory_facts(pid: int | None) -> MemoryFacts | None:
    """None if the process is gone. Without a pid: this process, which runs the engine."""
    import psutil

    machine = psutil.virtual_memory()
    held = resident_bytes(os.getpid() if pid is None else pid)
    return MemoryFacts(held, machine.total, available_bytes(), oom_kills()) if held else None


def is_out_of_memory(text: str) -> bool:
    """Whether an error, or the last words of an engine, say so."""
    return OUT_OF_MEMORY.search(text) is not None


def resident_bytes(pid: int) -> int:
    """0 if the process does not exist any more."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def peak_bytes(pid: int) -> int | None:
    """Peak memory of the process; None if the system does not record it. macOS and BSD record it only for this process
    itself."""
    import psutil

    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/status", encoding="latin-1") as file:
        return int(next(line for line in file if line.startswith("VmHWM:")).split()[1]) * 1024
    with contextlib.suppress(psutil.Error, AttributeError):
        return int(psutil.Process(pid).memory_info().peak_wset)  # Windows
    if pid == os.getpid():
        with contextlib.suppress(ImportError):
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024
    return None


# NVIDIA GPUs as their driver reports them, through NVML (package ``nvidia-ml-py``, pure Python, needs no CUDA)


class Gpu(Struct, frozen=True):
    """``index`` is the one in a strategy (``cuda:0``). Sizes in bytes; ``vram_free`` counts all programs on the GPU."""

    index: int
    name: str
    vram_total: int
    vram_free: int


PATIENCE_S = 0.3
"""How long a page waits for the GPU driver; later calls use its answer."""


class GpuReader:
    """Reads the GPUs in its own thread: if the driver hangs, one thread waits and the last known values are returned.
    Never more than one thread, and none any more after it found no driver."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_driver = True
        self._found: tuple[Gpu, ...] = ()
        self._thread: threading.Thread | None = None

    def read(self) -> tuple[Gpu, ...]:
        if not self._has_driver:
            return ()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._read, name="roost-gpus", daemon=True)
                self._thread.start()
            thread = self._thread
        thread.join(PATIENCE_S)
        return self._found

    def _read(self) -> None:
        found = read_gpus()
        self._found, self._has_driver = found or (), found is not None


def read_gpus() -> tuple[Gpu, ...] | None:
    """None without the package or the driver's library, until Roost is started again. May take seconds the first time:
    the driver wakes the GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except Exception as exc:  # a broken driver may raise anything, also OSError from loading its library
        logger.debug("NVML: %s", exc)
        return None if type(exc).__name__ == "NVMLError_LibraryNotFound" else ()
    try:
        return _cards(pynvml)
    except Exception as exc:
        logger.warning("the NVIDIA driver does not say what it has: %s", exc)
        return ()
    finally:
        pynvml.nvmlShutdown()


def _cards(nvml: Any) -> tuple[Gpu, ...]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    found = []
    for index, handle in enumerate(_visible(handles, nvml)):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = _text(nvml.nvmlDeviceGetName(handle))
        found.append(Gpu(index, name, int(memory.total), int(memory.free)))
    return tuple(found)


def _visible(handles: list[Any], nvml: Any) -> list[Any]:
    """NVML lists every GPU, torch only those in ``CUDA_VISIBLE_DEVICES`` (numbers or GPU-… ids), in that order."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return handles
    names = [(str(index), _text(nvml.nvmlDeviceGetUUID(handle))) for index, handle in enumerate(handles)]
    chosen: list[Any] = []
    for word in (part.strip() for part in wanted.split(",")):
        found = [number for number, names_of in enumerate(names) if _is_named(word, *names_of)]
        if not found:  # CUDA ignores all entries after the first unknown one
            break
        chosen.append(handles[found[0]])
    return chosen


def _is_named(word: str, index: str, uuid: str) -> bool:
    return word == index or (word.startswith("GPU-") and uuid.startswith(word))


def _text(value: Any) -> str:
    """Older versions of the package return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


GPUS = GpuReader()


BREATHING_BYTES = 256 << 20
"""Must stay free on a device when two models are loaded at once; a model that leaves less is a tight fit. The machine
runs other programs too."""


def has_room_beside(target: Target) -> bool:
    """Whether the model can be loaded while another stays loaded. Only main memory is measured, so the answer is False
    for any other device."""
    footprint = footprint_of(target)
    return footprint.devices == (RAM,) and footprint.peak_bytes(RAM) + BREATHING_BYTES <= available_bytes()


def footprint_of(target: Target) -> Footprint:
    """The memory that the engine process needs for it (docs/memory.md)."""
    backend, options = resolve_strategy(target.strategy)
    return backend.footprint(target.inspection, options)


def shortfall(target: Target, reclaimable_bytes: int) -> ModelError | None:
    """Why the model does not fit into main memory now (``reclaimable_bytes`` of it are freed before the load), or can
    never fit into its GPU; None if it fits."""
    footprint = footprint_of(target)
    needed, free = footprint.peak_bytes(RAM), available_bytes() + reclaimable_bytes
    key = "reason.manager.needs_more_memory"
    if needed <= free:
        card = footprint.too_large_for()
        if card is None:
            return None
        needed, free, key = footprint.peak_bytes(card), footprint.capacity[card], "reason.manager.card_is_too_small"
    sizes = {"needed": f"{needed / 1e9:.1f} GB", "free": f"{free / 1e9:.1f} GB"}
    return ModelError("model_does_not_fit", name=target.name, reason=Text(key, **sizes))


Shortfall = Callable[["Target", int], ModelError | None]
_Key = tuple[str, tuple[int, int], tuple[str, ...]]


class FitCheck:
    """Refuses to load a model that does not fit, until a person chooses to load it anyway; then it is allowed.

    It also remembers loads that failed for lack of memory, so that later requests do not repeat them. It keeps the last
    ``LIMIT`` of each. Not thread-safe.
    """

    LIMIT = 64

    def __init__(self, shortfall: Shortfall) -> None:
        self._shortfall = shortfall
        self._accepted: OrderedDict[_Key, bool] = OrderedDict()

    def refusal(self, target: Target, reclaimable_bytes: int, by_hand: bool) -> ModelError | None:
        """A failed load blocks requests only; a person may try again ``by_hand`` if there is enough free memory now."""
        is_accepted = self._accepted.get(_key(target))
        if is_accepted:
            return None
        if is_accepted is None or by_hand:
            return self._shortfall(target, reclaimable_bytes)
        return ModelError("model_does_not_fit", name=target.name, reason=Text("reason.manager.memory_ran_out_before"))

    def accept(self, target: Target) -> None:
        self._note(target, True)

    def note_failure(self, target: Target) -> None:
        self._note(target, False)

    def note_success(self, target: Target) -> None:
        if self._accepted.get(_key(target)) is False:
            del self._accepted[_key(target)]

    def _note(self, target: Target, is_accepted: bool) -> None:
        self._accepted[_key(target)] = is_accepted
        self._accepted.move_to_end(_key(target))
        while len(self._accepted) > self.LIMIT:
            self._accepted.popitem(last=False)


def _key(target: Target) -> _Key:
    return target.path, target.stamp, tuple(target.strategy.split())


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
        self._note_changed(note)

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
            self._note_changed(found)
        if not found:
            self._on_ready()

    def _note_changed(self, note: str) -> None:
        is_new, self._note = note != self._note, note
        if is_new:
            self._on_note(note)
