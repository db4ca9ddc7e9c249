"""The hardware of this machine and its free resources: CPU, memory, NVIDIA GPUs. Does not import torch.

A page asks for this at each visit, so nothing here may be slow: figures are cached for a moment, and so are the
backends' answers about this machine and a model (:func:`kept`).
"""

from __future__ import annotations

import functools
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from webapp.engine.state import ModelConfig
from webapp.manager.memory import GPUS, Gpu, available_bytes

KEPT_S = 2.0
ANSWERS_KEPT_S = 10.0
MAX_ANSWERS = 1000
Answered = TypeVar("Answered", bound=Callable[..., Any])


def kept(ask: Answered) -> Answered:
    """Caches ``ask``, which asks backends, for :data:`ANSWERS_KEPT_S` per arguments, because backends search for
    packages, drivers and compilers, and process every tensor of a model. For pages; a load asks backends directly.

    Texts and model sizes are compared by value, any other argument by identity.
    """

    @functools.wraps(ask)
    def answer(*about: Any) -> Any:
        key = (ask, *(one if one is None or isinstance(one, (str, ModelConfig)) else id(one) for one in about))
        found = _answers.get(key)
        if found is None or time.monotonic() - found[0] > ANSWERS_KEPT_S:
            if len(_answers) >= MAX_ANSWERS:
                forget_answers()
            found = _answers[key] = (time.monotonic(), ask(*about), about)
        return found[1]

    return answer  # type: ignore[return-value]


def forget_answers() -> None:
    """Clears the cache of :func:`kept`."""
    _answers.clear()


_answers: dict[Any, tuple[float, Any, Any]] = {}
"""Time, result, and the arguments: while they are stored, no other object can get the same ``id``."""


class Hardware(Struct, frozen=True):
    """Sizes in bytes. ``cores`` are physical cores, ``threads`` hardware threads. ``ram_available``: what programs can
    still get, within a container's limit."""

    cpu_name: str
    cores: int
    threads: int
    ram_total: int
    ram_available: int
    gpus: tuple[Gpu, ...]


class Probe:
    """Reads the machine at most every two seconds; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[float, Hardware] | None = None

    def read(self) -> Hardware:
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > KEPT_S:
                self._kept = time.monotonic(), self._measure()
            return self._kept[1]

    def _measure(self) -> Hardware:
        import psutil  # at first use: it takes a while to import

        return Hardware(
            cpu_name=cpu_name(),
            cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
            threads=psutil.cpu_count() or 1,
            ram_total=psutil.virtual_memory().total,
            ram_available=available_bytes(),
            gpus=GPUS.read(),
        )


_probe = Probe()


def probe() -> Hardware:
    """The current machine, at most two seconds old."""
    return _probe.read()


@functools.cache
def cpu_name() -> str:
    """The maker's name for it; on systems without that, the family."""
    if platform.system() == "Linux":
        return _linux_cpu_name() or platform.machine()
    if platform.system() == "Windows":
        return _windows_cpu_name() or platform.processor()
    return _mac_cpu_name() or platform.processor() or platform.machine()


def _linux_cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "hardware")))
    return " ".join(next(names, "").split())


def _windows_cpu_name() -> str:
    import winreg

    try:
        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:  # type: ignore[attr-defined,unused-ignore]
            return " ".join(str(winreg.QueryValueEx(opened, "ProcessorNameString")[0]).split())  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return ""


def _mac_cpu_name() -> str:
    import subprocess

    try:
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
