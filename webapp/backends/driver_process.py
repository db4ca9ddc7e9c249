"""Queries GPU drivers in a separate process, so that a driver that crashes cannot end this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

TIMEOUT_S = 60


class DriverFailed(Exception):
    """Contains the last output of the process, or how it ended."""


def printed_by(module: str) -> Any:
    """The JSON that ``python -m module`` prints last. Raises DriverFailed."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as exc:
        raise DriverFailed(f"{type(exc).__name__}: {exc}") from exc
    words = done.stderr.strip().splitlines()
    raise DriverFailed(words[-1] if words else f"exit code {done.returncode}")


def _environment() -> dict[str, str]:
    """Mesa needs a folder of the user, and prints a warning on the terminal if there is none."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    places = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {"XDG_RUNTIME_DIR": tempfile.gettempdir(), **os.environ, "PYTHONPATH": places}
