"""What this machine has and what of it is free: processor, memory, NVIDIA cards, disk. Imports no torch.

A page asks for this at each visit, so nothing here may make it wait: figures are kept for a moment, and so is what the
backends said about this machine and a model (:func:`kept`).
"""

from __future__ import annotations

import functools
import platform
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from webapp.engine.state import ModelConfig
from webapp.manager.health import available_bytes
from webapp.manager.nvidia import GPUS, Gpu

__all__ = ["Gpu", "Hardware", "Probe", "forget_answers", "kept", "probe"]

KEPT_S = 2.0
ANSWERS_KEPT_S = 10.0
MOST_ANSWERS = 1000
Answered = TypeVar("Answered", bound=Callable[..., Any])


def kept(ask: Answered) -> Answered:
    """``ask``, which asks backends, at most once in :data:`ANSWERS_KEPT_S` about the same things: they look into files
    for packages, drivers and compilers, and go through every tensor of a model. For pages; a load asks them itself.

    Texts and sizes of models are the same when they are equal, any other argument when it is the very same object.
    """

    @functools.wraps(ask)
    def answer(*about: Any) -> Any:
        key = (ask, *(one if one is None or isinstance(one, (str, ModelConfig)) else id(one) for one in about))
        found = _answers.get(key)
        if found is None or time.monotonic() - found[0] > ANSWERS_KEPT_S:
            if len(_answers) >= MOST_ANSWERS:
                forget_answers()
            found = _answers[key] = (time.monotonic(), ask(*about), about)
        return found[1]

    return answer  # type: ignore[return-value]


def forget_answers() -> None:
    """What was asked with :func:`kept` is asked again."""
    _answers.clear()


_answers: dict[Any, tuple[float, Any, Any]] = {}
"""When, what, and the arguments: an ``id`` is another object's only after they are gone."""


@dataclass(frozen=True)
class Hardware:
    """Sizes in bytes. ``cores`` are physical, ``threads`` what runs at once. ``ram_available`` is what programs can
    still get, within a container's limit. ``disk_free`` is of the folder asked about."""

    cpu_name: str
    cores: int
    threads: int
    ram_total: int
    ram_available: int
    gpus: tuple[Gpu, ...]
    disk_free: int


class Probe:
    """Reads the machine at most every two seconds; safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at: dict[Path, float] = {}
        self._kept: dict[Path, Hardware] = {}

    def read(self, folder: Path) -> Hardware:
        with self._lock:
            if time.monotonic() - self._read_at.get(folder, float("-inf")) > KEPT_S:
                self._kept[folder] = self._measure(folder)
                self._read_at[folder] = time.monotonic()
            return self._kept[folder]

    def _measure(self, folder: Path) -> Hardware:
        import psutil  # at first use: it takes a while to import

        return Hardware(
            cpu_name=cpu_name(),
            cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
            threads=psutil.cpu_count() or 1,
            ram_total=psutil.virtual_memory().total,
            ram_available=available_bytes(),
            gpus=GPUS.read(),
            disk_free=disk_free(folder),
        )


_probe = Probe()


def probe(folder: Path | None = None) -> Hardware:
    """The machine as it is now (two seconds old at the most); ``disk_free`` is of ``folder`` or the current one."""
    return _probe.read(folder or Path())


def disk_free(folder: Path) -> int:
    """Of the nearest folder above that exists; 0 when even that cannot be asked."""
    for candidate in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(candidate).free
        except OSError:
            continue
    return 0


@functools.cache
def cpu_name() -> str:
    """As the maker calls it; on systems that do not say, the family."""
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
