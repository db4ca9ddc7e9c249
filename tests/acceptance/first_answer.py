"""The time from Enter to the first words of an answer, in real Chromium, on a server that has not loaded a model.

    python -m tests.acceptance.first_answer [--runs N] [--strategy S]

Every run is a new server with a new data folder; the page is open for two seconds before the question is sent. Then
the same again with the model loaded. Prints the seconds of each run and, as the last line, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.served_roost import STARTER, ServedRoost
from tests.browser.conftest import CHROMIUM

QUESTION = "Why do birds sing?"
WORDS = ".answer:last-child > .prose:not(:empty)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--strategy", default="auto")
    args = parser.parse_args()
    runs = [measure(args.strategy) for _ in range(args.runs)]
    for cold_s, warm_s in runs:
        print(f"cold {cold_s:.2f} s, warm {warm_s:.2f} s")
    cold, warm = zip(*runs, strict=True)
    print(
        json.dumps(
            {
                "strategy": args.strategy,
                "load_average": round(psutil.getloadavg()[0], 1),
                "cold_s": round(statistics.median(cold), 3),
                "warm_s": round(statistics.median(warm), 3),
                "runs": [[round(value, 3) for value in run] for run in runs],
            }
        )
    )


def measure(strategy: str) -> tuple[float, float]:
    from playwright.sync_api import sync_playwright

    data = Path(tempfile.mkdtemp(prefix="roost-first-"))
    try:
        with (
            ServedRoost(data, "--models", str(STARTER.parent), "--strategy", strategy) as roost,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(roost.url)
            time.sleep(2)
            cold = ask(page)
            page.goto(roost.url)
            warm = ask(page)
            browser.close()
            return cold, warm
    finally:
        shutil.rmtree(data, ignore_errors=True)


def ask(page: Any) -> float:
    page.fill("#prompt", QUESTION)
    begun = time.perf_counter()
    page.press("#prompt", "Enter")
    page.wait_for_selector(WORDS, timeout=60_000)
    seconds = time.perf_counter() - begun
    page.wait_for_selector(".answer:last-child:not(.is-streaming) .stats > :last-child", timeout=60_000)
    return seconds


if __name__ == "__main__":
    main()
