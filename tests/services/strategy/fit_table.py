"""Estimated and real memory: a Markdown row for each model and strategy, for docs/memory.md.

    python -m tests.weights.make_big_checkpoint 6 v6-1b6.pth
    python -m tests.weights.make_big_checkpoint 7 v7-1b6.pth
    python -m tests.services.strategy.fit_table v6-1b6.pth v7-1b6.pth [--strategies "cpu fp32,cpu bf16"]

Linux only; one model after the other, each in its own engine process. The real peak is that process's VmHWM after the
load, 70 prompt tokens and 4 answer tokens.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.services.strategy.engine_memory import measure
from webapp.services.strategy import estimate, probe
from webapp.weights.inspection import inspect

STRATEGIES = "cpu fp32,cpu bf16,cpu fp16,cpu fp32i8 -> cpu fp32 *1,cpu fp32i8"
HEAD = "| model | strategy | estimated GB | after load GB | real peak GB | error |\n|---|---|---|---|---|---|"


def row(path: Path, strategy: str) -> str:
    """One line of the table; the reason if the package refuses."""
    estimated = estimate(inspect(path), strategy, probe())
    if estimated.error is not None:
        return f"| {path.stem} | `{strategy}` | - | - | refused: {estimated.error.message} | - |"
    with tempfile.TemporaryDirectory() as folder:
        real = measure(path, strategy, Path(folder))
    peak = estimated.devices[0].peak_bytes
    figures = " | ".join(f"{size / 1e9:.3f}" for size in (peak, real.loaded, real.peak))
    return f"| {path.stem} | `{strategy}` | {figures} | {100 * (peak / real.peak - 1):+.1f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--strategies", default=STRATEGIES)
    options = parser.parse_args()
    print(HEAD)
    for path in options.models:
        for strategy in options.strategies.split(","):
            print(row(path, strategy), flush=True)


if __name__ == "__main__":
    main()
