"""How much memory there is, and whether a second model fits beside the first for a moment."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from webapp.manager.crash import MemoryFacts
from webapp.manager.target import Target

MARGIN_BYTES = 600_000_000
"""A second interpreter with torch (about 350 MB with the rwkv package on CPU), and room for the machine to breathe."""

BYTES_PER_WEIGHT = {"fp32": 4, "fp16": 2, "bf16": 2, "i8": 2}
"""i8 counts as the half precision it is made from: that is what its load needs at the most."""

CGROUP = Path("/sys/fs/cgroup")


def has_room_beside(target: Target) -> bool:
    """True when the model can be loaded while another stays loaded. Only main memory is measured, so on any other
    device the answer is no."""
    device = target.choice.strategy.split()[0]
    return device in ("cpu", "fake") and needed_bytes(target) <= available_bytes()


def needed_bytes(target: Target) -> int:
    """The peak of a load: the file as read, the weights as run, and a margin."""
    words = target.choice.strategy
    per_weight = max((size for word, size in BYTES_PER_WEIGHT.items() if word in words), default=4)
    return target.inspection.size_bytes + per_weight * target.inspection.parameters + MARGIN_BYTES


def available_bytes() -> int:
    """What programs can still get, also where a container is allowed less than the machine has."""
    import psutil  # at first use: it takes a while to import

    free: int = psutil.virtual_memory().available
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return min(free, int(limit) - used) if limit.isdigit() else free


def oom_kills() -> int | None:
    """Processes the system has ended for lack of memory: of this process's control group where that is counted, else of
    the machine. None where neither is (not Linux)."""
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
    """None once the process is gone. Without a pid it is this process that runs the engine."""
    import psutil

    machine = psutil.virtual_memory()
    held = resident_bytes(os.getpid() if pid is None else pid)
    return MemoryFacts(held, machine.total, available_bytes(), oom_kills()) if held else None


def resident_bytes(pid: int) -> int:
    """0 when there is no such process any more."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
