"""Everything at once from many threads: loads, swaps, cancels, aborts, crashed and hung engines."""

from __future__ import annotations

import contextlib
import random
import threading

from tests.manager.conftest import request
from tests.waiting import PATIENCE_S, wait_until
from webapp.engine.outputs import TokenOutput
from webapp.errors import RoostError
from webapp.manager.supervisor import StallLimits

SECONDS = 3.0


def test_whatever_happens_every_request_ends_once_and_nothing_is_left(roost_threads, make_manager, starter):
    limits = StallLimits(silent_s=0, step_s=0.5, notice_s=0.1, look_every_s=0.02)
    manager = make_manager("fake delay_ms=1 hang_on=200 hang_ms=700", stall_limits=limits, crash_tries=100)
    is_over = threading.Event()
    handles, wrong = [], []

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        while not is_over.is_set():
            try:
                prompt = (1, 200) if rng.random() < 0.02 else (1, rng.randrange(2, 90))
                handle = manager.submit(request(*prompt, max_tokens=rng.choice([1, 20, 1000])))
            except RoostError:
                continue
            handles.append(handle)
            if rng.random() < 0.5:
                is_over.wait(rng.random() * 0.05)
                handle.abort()
            ends = [event for event in handle.events(60) if isinstance(event, TokenOutput) and event.finish_reason]
            if len(ends) != 1:
                wrong.append(ends)

    disturbances = [
        lambda rng: manager.load(rng.choice(["v6.safetensors", "v7.safetensors"])),
        lambda rng: manager.apply_state(rng.choice(["", "fits.safetensors"])),
        lambda rng: manager.cancel_load(),
        lambda rng: manager.unload(),
        lambda rng: starter.clients[-1].kill(),
    ]

    def disturb(seed: int) -> None:
        rng = random.Random(seed)
        while not is_over.wait(0.05):
            with contextlib.suppress(RoostError, IndexError):
                rng.choice(disturbances)(rng)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    threads += [threading.Thread(target=disturb, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    is_over.wait(SECONDS)
    wait_until(lambda: len(handles) > 20 and len(starter.clients) > 3, "hardly anything happened")
    is_over.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads) and wrong == []
    manager.close()
    assert all(handle.is_finished for handle in handles)
    wait_until(lambda: roost_threads() == [])
