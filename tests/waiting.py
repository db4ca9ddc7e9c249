"""Waiting for what other threads and processes do: on the thing itself, with a bound only a broken test meets."""

import time

import psutil

PATIENCE_S = 60.0  # some machines are three times slower than they were a minute ago


class WaitRanOut(Exception):
    """A wait timed out. Not an AssertionError: pytest repeats such a test once, but never one with a wrong value."""


def wait_until(claim, what="it never came true", timeout_s=PATIENCE_S, pause=lambda: time.sleep(0.01)):
    """Asks ``claim()`` until it is true, with a pause between; raises WaitRanOut with ``what`` after ``timeout_s``
    seconds."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        if time.monotonic() > deadline:
            raise WaitRanOut(what)
        pause()


def is_gone(pid):
    """The process has ended, even if its parent has not collected its status yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
