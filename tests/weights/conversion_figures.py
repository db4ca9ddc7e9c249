"""Measures conversions of real-size models: seconds, peak memory, logits, load times, a kill midway. Prints JSON.

python -m tests.weights.make_big_checkpoint 6 v6.pth; python -m tests.weights.make_big_checkpoint 7 v7.pth
python -m tests.weights.conversion_figures v6.pth v7.pth
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
IDS = [1, 2, 3, 250, 7, 4000]
STRATEGIES = {"6": ("cpu bf16", "cpu fp32i8"), "7": ("cpu bf16", "cpu fp32")}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)


def convert(source: Path, out: Path, target: str, strategy: str = "") -> dict[str, Any]:
    words = ["-m", "webapp.cli", "convert", str(source), str(out), "--to", target, "--json", f"--strategy={strategy}"]
    before = cpu_seconds()
    found = json.loads(run(*words).stdout)
    return {
        "seconds": found["seconds"],
        "cpu_seconds": round(cpu_seconds() - before, 1),
        "peak_rss_mb": round(found["peak_rss_bytes"] / 1e6),
        "size_mb": round(found["size_bytes"] / 1e6),
    }


def cpu_seconds() -> float:
    """Of all programs run so far."""
    times = os.times()
    return times.children_user + times.children_system


def load(path: Path, strategy: str, logits: Path) -> dict[str, Any]:
    """In a separate process; the file was read just before, so it is in the system's cache for all."""
    found: dict[str, Any] = json.loads(run("-m", __spec__.name, "--load", str(path), strategy, str(logits)).stdout)
    return found


def load_here(path: str, strategy: str, logits: str) -> None:
    from tests.engine.driving import forward, load_backend
    from webapp.manager.memory import peak_bytes

    with open(path, "rb") as file:
        while file.read(16 << 20):
            pass
    import torch  # noqa: F401  not part of a model's load

    started, cpu_started = time.monotonic(), time.process_time()
    backend = load_backend(path, strategy)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu_started
    np.save(logits, forward(backend, [backend.new_slot()], [IDS])[0])
    found = {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_rss_mb": round((peak_bytes(os.getpid()) or 0) / 1e6),
    }
    print(json.dumps(found))


def killed_midway(source: Path, out: Path) -> dict[str, Any]:
    """kill -9 at half of the bytes, then the leftovers, then a complete conversion."""
    command = [sys.executable, "-m", "webapp.cli", "convert", str(source), str(out), "--to", "st", "--progress-json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        report = json.loads(line)
        if report["event"] == "progress" and 2 * report["done_bytes"] >= report["total_bytes"]:
            break
    process.kill()
    process.wait()
    hidden = [path.stat().st_size for path in out.parent.glob(".*.converting")]
    return {
        "killed_at_mb": round(report["done_bytes"] / 1e6),
        "has_final_name": out.exists(),
        "hidden_files": len(hidden),
    }


def measure(source: Path, folder: Path, is_quick: bool) -> dict[str, Any]:
    from webapp.weights.inspection import inspect

    config = inspect(source).config
    assert config is not None
    st, logits = folder / "model.st", {name: folder / f"{name}.npy" for name in ("pth", "other")}
    found: dict[str, Any] = {"parameters": inspect(source).parameters, "killed": killed_midway(source, st)}
    found["pth_to_st"] = convert(source, st, "st")
    found["hidden_files_after"] = len(list(folder.glob(".*.converting")))
    if not is_quick:
        found["st_to_pth"] = convert(st, folder / "back.pth", "pth")
        (folder / "back.pth").unlink()
    for strategy in STRATEGIES[str(config.major)][: 1 if is_quick else None]:
        row = found[strategy] = {"load_pth": load(source, strategy, logits["pth"])}
        row["load_st"] = load(st, strategy, logits["other"])
        row["st_max_diff"] = difference(logits)
        row["pth_to_fast"] = convert(source, folder / "fast.pth", "fast", strategy)
        row["load_fast"] = load(folder / "fast.pth", strategy, logits["other"])
        row["fast_max_diff"] = difference(logits)
        for unit in ("seconds", "cpu_seconds"):
            row[f"pth_over_fast_{unit}"] = round(row["load_pth"][unit] / row["load_fast"][unit], 2)
        (folder / "fast.pth").unlink()
        print(json.dumps({source.name: found}), file=sys.stderr, flush=True)
    st.unlink()
    return found


def difference(logits: dict[str, Path]) -> float:
    return float(np.abs(np.load(logits["pth"]) - np.load(logits["other"])).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load_here(*args.load)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {path.name: measure(path, Path(folder), args.quick) for path in args.models}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
