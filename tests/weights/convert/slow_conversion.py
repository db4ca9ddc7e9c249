"""A program that converts IN to OUT, reports when it is halfway, and waits there to be killed."""

from __future__ import annotations

import sys
import time

from webapp.weights.convert import plan
from webapp.weights.convert.conversion import convert


def wait_midway(report: plan.ConversionProgress) -> None:
    if report.phase == sys.argv[3] and 0 < 2 * report.done_bytes >= report.total_bytes:
        print("midway", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    plan.REPORT_EVERY_S = 0
    convert(sys.argv[1], sys.argv[2], "st", report=wait_midway)
