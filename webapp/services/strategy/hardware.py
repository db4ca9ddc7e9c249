"""What this machine has and what of it is free: processor, memory, NVIDIA cards, disk. Imports no torch.

A page asks for this at each visit, so nothing here may make it wait: figures are kept for a moment, and the driver of a
graphics card, which may take seconds to answer the first time, is asked in a thread of its own.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.manager.health import available_bytes

log = logging.getLogger(__name__)

KEPT_S = 2.0
GPU_PATIENCE_S = 0.3
"""How long a page waits for the graphics driver; later calls find its answer."""


@dataclass(frozen=True)
class Gpu:
    """``index`` is the one a strategy names (``cuda:0``). Bytes; ``vram_free`` counts all programs on the card."""

    index: int
    name: str
    vram_total: int
    vram_free: int
    driver: str


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
        self._gpus: tuple[Gpu, ...] = ()
        self._reader: threading.Thread | None = None

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
            gpus=self._current_gpus(),
            disk_free=disk_free(folder),
        )

    def _current_gpus(self) -> tuple[Gpu, ...]:
        """A driver that hangs leaves one thread waiting and the figures known before."""
        if self._reader is None or not self._reader.is_alive():
            self._reader = threading.Thread(target=self._read_gpus, name="roost-gpus", daemon=True)
            self._reader.start()
        self._reader.join(GPU_PATIENCE_S)
        return self._gpus

    def _read_gpus(self) -> None:
        self._gpus = read_gpus()


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


def read_gpus() -> tuple[Gpu, ...]:
    """NVIDIA cards as their driver tells them, through NVML (package ``nvidia-ml-py``, pure Python, no CUDA needed).
    Empty without the package, a driver or a card. May take seconds the first time: the driver wakes the card."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except Exception as exc:  # a broken driver raises what it likes, also OSError from loading its library
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
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    found = []
    for index, handle in enumerate(_visible(handles, nvml)):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = _text(nvml.nvmlDeviceGetName(handle))
        found.append(Gpu(index, name, int(memory.total), int(memory.free), driver))
    return tuple(found)


def _visible(handles: list[Any], nvml: Any) -> list[Any]:
    """NVML counts every card, torch only those of ``CUDA_VISIBLE_DEVICES`` (numbers or GPU-… ids) and in its order."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return handles
    names = [(str(index), _text(nvml.nvmlDeviceGetUUID(handle))) for index, handle in enumerate(handles)]
    chosen: list[Any] = []
    for word in (part.strip() for part in wanted.split(",")):
        found = [number for number, names_of in enumerate(names) if _is_named(word, *names_of)]
        if not found:  # CUDA ignores what follows the first one it does not know
            break
        chosen.append(handles[found[0]])
    return chosen


def _is_named(word: str, index: str, uuid: str) -> bool:
    return word == index or (word.startswith("GPU-") and uuid.startswith(word))


def _text(value: Any) -> str:
    """Older versions of the package answer bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
