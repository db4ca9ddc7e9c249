"""One line for a person, one JSON line for the loss curve."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


class Progress:
    """Speed and remaining time since the start of this process; `log` appends to the run's curve.jsonl."""

    def __init__(self, folder: Path, tokens_done: int, tokens_planned: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.curve, self.first, self.planned = folder / "curve.jsonl", tokens_done, tokens_planned
        self.started = time.monotonic()
        self.smoothed: float | None = None

    def see(self, loss: float) -> None:
        self.smoothed = loss if self.smoothed is None else 0.97 * self.smoothed + 0.03 * loss

    def line(self, step: int, tokens: int, **figures: float | None) -> str:
        elapsed = time.monotonic() - self.started
        speed = (tokens - self.first) / max(elapsed, 1e-9)
        left = clock((self.planned - tokens) / speed) if speed > 0 else "?"
        done = min(1.0, tokens / self.planned)
        bar = "#" * int(20 * done) + "." * (20 - int(20 * done))
        record: dict[str, Any] = {
            "step": step,
            "tokens": tokens,
            "loss": round(self.smoothed or 0.0, 4),
            "tokens_per_s": round(speed, 1),
            "time": round(time.time()),
        }
        record.update({name: round(value, 6) for name, value in figures.items() if value is not None})
        with self.curve.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        extra = " ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
        amount = f"{tokens / 1e6:.2f}/{self.planned / 1e6:.1f}M"
        return f"[{bar}] step {step} {amount} loss {record['loss']:.3f} {extra} {speed:.0f} tok/s left {left}"

    def show(self, text: str) -> None:
        """Rewrites one line in a terminal, otherwise prints a line."""
        print(
            ("\r" + text + "\033[K") if sys.stdout.isatty() else text,
            end="" if sys.stdout.isatty() else "\n",
            flush=True,
        )
