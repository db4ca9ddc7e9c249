"""An engine that hangs: the time until the page says so, and until the next message works. Prints one JSON document.

    python -m tests.acceptance.hung_engine [--limit 60] [--rows decode,load,pause]

`roost serve` with the starter model, a page's socket, and a real engine process that is stopped (SIGSTOP) while it
writes an answer (``decode``) or loads the model (``load``). All times are seconds since the stop:

* ``strip_s``: the status strip says that the engine does not answer; ``message_s``: so does the waiting message
* ``failed_s``: the answer ended, with ``error``; ``kept_chars`` of its text are stored
* ``next_text_s``: the first text of a message sent right after that

``pause`` continues the engine after ten seconds (less with a short limit): the answer continues normally.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.acceptance.served_roost import Page, ServedRoost

PATIENCE_S = 60
QUESTION = "Count from 1 to 300."


class Watched:
    """All frames of a page, with the time of each."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.strip_at: float | None = None
        self.message_at: float | None = None

    def until(self, is_wanted: Callable[[dict[str, Any]], bool], patience_s: float) -> dict[str, Any]:
        """The first frame that matches."""
        end = time.monotonic() + patience_s
        while (left := end - time.monotonic()) > 0:
            data = self.page.socket.receive(timeout=left)
            if not isinstance(data, str):
                continue
            if not data.startswith("{"):
                if re.search(r'data-silent="\d+"', data) and self.strip_at is None:
                    self.strip_at = time.monotonic()
                continue
            frame = json.loads(data)
            if frame["type"] == "chat":
                self.page.chat_id = frame["id"]
            if frame["type"] == "progress" and re.search(r"\d+ s", frame["waiting"]) and self.message_at is None:
                self.message_at = time.monotonic()
            if is_wanted(frame):
                return frame
        raise AssertionError("nothing of the kind came in time")


def is_text(frame: dict[str, Any]) -> bool:
    return frame["type"] == "text" and bool(frame["final"] or frame["tail"])


def is_end(frame: dict[str, Any]) -> bool:
    return frame["type"] == "finished"


def stop_engine(roost: ServedRoost, watched: Watched, phase: str) -> Any:
    """Stops the engine process in that phase."""
    if phase == "load":
        end = time.monotonic() + PATIENCE_S
        while (engine := roost.engine()) is None:
            assert time.monotonic() < end, "no engine was started"
            time.sleep(0.01)
    else:
        watched.until(is_text, PATIENCE_S)
        engine = roost.engine()
        assert engine is not None
    engine.suspend()
    return engine


def measure(phase: str, limit_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, ServedRoost(Path(folder), "--stall-limit-s", str(limit_s)) as roost:
        page = roost.page()
        watched = Watched(page)
        page.send(QUESTION, max_tokens="600")
        engine = stop_engine(roost, watched, phase)
        stopped_at = time.monotonic()
        if phase == "pause":
            threading.Timer(min(10, 0.8 * limit_s), engine.resume).start()
        watched.until(is_end, limit_s + PATIENCE_S)
        failed_at = time.monotonic()
        failed = page.answer()
        page.send("And now?", max_tokens="20")
        watched.until(is_text, PATIENCE_S)
        next_at = time.monotonic()
        has_ended = not engine.is_running()
        page.close()

    def since(moment: float | None) -> float | None:
        return None if moment is None else round(moment - stopped_at, 2)

    return {
        "phase": phase,
        "limit_s": limit_s,
        "strip_s": since(watched.strip_at),
        "message_s": since(watched.message_at),
        "failed_s": since(failed_at),
        "status": failed["status"],
        "error": (failed.get("error") or {}).get("code", ""),
        "kept_chars": len(failed["content"]),
        "engine_ended": has_ended,
        "next_text_s": since(next_at),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--rows", default="decode,load,pause")
    args = parser.parse_args(arguments)
    return {"rows": [measure(row, args.limit) for row in args.rows.split(",")]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:]), indent=1))
