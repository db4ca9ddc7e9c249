"""NVIDIA GPUs as their driver reports them, through NVML (package ``nvidia-ml-py``, pure Python, needs no CUDA)."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """``index`` is the one in a strategy (``cuda:0``). Sizes in bytes; ``vram_free`` counts all programs on the GPU."""

    index: int
    name: str
    vram_total: int
    vram_free: int


PATIENCE_S = 0.3
"""How long a page waits for the GPU driver; later calls use its answer."""


class GpuReader:
    """Reads the GPUs in its own thread: if the driver hangs, one thread waits and the last known values are returned.
    Never more than one thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: tuple[Gpu, ...] = ()
        self._thread: threading.Thread | None = None

    def read(self) -> tuple[Gpu, ...]:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._read, name="roost-gpus", daemon=True)
                self._thread.start()
            thread = self._thread
        thread.join(PATIENCE_S)
        return self._found

    def _read(self) -> None:
        self._found = read_gpus()


def read_gpus() -> tuple[Gpu, ...]:
    """Empty without the package, a driver or a GPU. May take seconds the first time: the driver wakes the GPU."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except Exception as exc:  # a broken driver may raise anything, also OSError from loading its library
        log.debug("NVML: %s", exc)
        return ()
    try:
        return _cards(pynvml)
    except Exception as exc:
        log.warning("the NVIDIA driver does not say what it has: %s", exc)
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
