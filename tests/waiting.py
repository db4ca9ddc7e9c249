"""Waiting for what other threads and processes do: on the thing itself, with a bound only a broken test meets."""

import time


def wait_until(claim, timeout_s=60.0):
    """Asks ``claim()`` until it is true; fails after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
