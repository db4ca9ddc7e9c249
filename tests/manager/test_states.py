"""A state becomes the initial state of later sequences immediately, or is refused."""

from __future__ import annotations

import json
import logging

from msgspec.structs import replace

from tests.errors import raises_code
from tests.manager.conftest import assert_failed, first_token, last_output, request, wait_phase
from tests.waiting import wait_until
from webapp.backends.fake import fake_config
from webapp.engine.state import RecurrentState
from webapp.manager.messages import KeepState, Submit
from webapp.manager.session import KeptStates
from webapp.manager.target import Start, StateInfo

FITS, NARROW = "fits.safetensors", "narrow.safetensors"


def begins_with(manager) -> str:
    return last_output(manager.submit(request())).stats.initial_state_digest


def test_a_state_applies_to_later_sequences_without_a_reload(make_manager, starter):
    manager = make_manager("fake delay_ms=2", swap_grace_s=10)
    plain = begins_with(manager)
    running = manager.submit(request(max_tokens=60))
    first_token(running)
    info = manager.apply_state(FITS)
    assert info.name == FITS and len(info.digest) == 64
    assert begins_with(manager) != plain
    assert last_output(running).stats.initial_state_digest == plain
    assert manager.status().state == FITS
    assert manager.apply_state("").name == ""
    assert begins_with(manager) == plain and manager.status().state == ""
    assert len(starter.clients) == 1


def test_a_state_changes_what_is_answered(make_manager):
    manager = make_manager()
    plain = last_output(manager.submit(request())).token_ids
    manager.apply_state(FITS)
    assert last_output(manager.submit(request())).token_ids != plain


def test_a_refused_state_leaves_the_one_in_use(make_manager):
    manager = make_manager()
    manager.apply_state(FITS)
    used = begins_with(manager)
    for wrong, error in (
        (NARROW, "state_mismatch"),
        ("nowhere.pth", "state_not_found"),
        ("../../etc/passwd", "state_not_found"),
    ):
        with raises_code(error):
            manager.apply_state(wrong)
        with raises_code(error):
            manager.load(state=wrong)
    with raises_code("state_mismatch"):
        manager.apply_state("v7.safetensors")
    assert manager.status().state == FITS and begins_with(manager) == used


def test_a_state_chosen_before_the_load_or_during_it_counts(make_manager, held_loads):
    held_loads.end()
    manager = make_manager()
    manager.apply_state(FITS)
    with_state = begins_with(manager)
    other = make_manager(state=FITS)
    assert begins_with(other) == with_state
    third = make_manager()
    held_loads.hold()
    handle = third.submit(request())
    wait_phase(third, "loading")
    third.apply_state(FITS)
    held_loads.end()
    assert last_output(handle).stats.initial_state_digest == with_state


def test_a_state_survives_a_crash_and_an_unload(make_manager, starter):
    manager = make_manager(state=FITS)
    used = begins_with(manager)
    starter.clients[-1].kill()
    wait_phase(manager, "failed")
    assert begins_with(manager) == used
    manager.unload()
    wait_phase(manager, "empty")
    assert begins_with(manager) == used


def test_a_swap_drops_a_state_that_does_not_fit_and_says_so(make_manager):
    manager = make_manager(state=FITS)
    begins_with(manager)
    manager.load("wide.safetensors")
    status = manager.wait_ready(60)
    assert status.state == "" and status.notice["code"] == "state_dropped"
    assert status.notice["params"]["path"] == "fits.safetensors"
    manager.apply_state("")
    assert manager.status().notice is None


def test_a_state_does_not_silently_follow_to_a_model_of_another_version(make_manager):
    """The states of RWKV-6 1.6B and RWKV-7 1.5B have the same size, and most files do not say for which version they
    are."""
    manager = make_manager(state=FITS)
    plain = begins_with(manager)
    manager.load("v6.safetensors")
    status = manager.wait_ready(60)
    assert status.state == "" and status.notice["params"]["found"]["params"]["used_version"] == "7"
    assert manager.apply_state(FITS).name == FITS  # an explicit choice is trusted
    manager.load(strategy="fake delay_ms=1")
    assert manager.wait_ready(60).state == FITS
    manager.load("v7.safetensors", state=FITS)
    assert manager.wait_ready(60).state == FITS and begins_with(manager) == plain


def test_a_state_named_with_the_load_has_to_fit(make_manager):
    manager = make_manager()
    begins_with(manager)
    with raises_code("state_mismatch"):
        manager.load("wide.safetensors", state=FITS)
    assert manager.status().model == "v7.safetensors"
    manager.load("v6.safetensors", state=FITS)
    assert manager.wait_ready(60).state == FITS


def test_a_wrong_state_in_the_settings_is_an_error_and_not_left_out_silently(make_manager):
    manager = make_manager(state=NARROW)
    with raises_code("state_mismatch"):
        manager.submit(request())
    manager.load(state="")
    assert manager.wait_ready(60).state == ""


def test_a_failed_swap_goes_back_to_the_former_state(make_manager):
    manager = make_manager(state=FITS)
    used = begins_with(manager)
    manager.load("wide.safetensors", "fake load_fail=no")
    assert_failed(manager.submit(request()), "load_failed")
    wait_until(lambda: manager.status().state == FITS)
    assert begins_with(manager) == used


def test_a_state_of_one_request_is_its_own(make_manager, starter):
    manager = make_manager()
    plain = begins_with(manager)
    handle = manager.submit(request(), state=FITS)
    stats = last_output(handle).stats
    digest = manager.apply_state(FITS).digest
    assert stats.initial_state_digest == handle.service.state.digest == digest != plain
    assert handle.service.state.name == FITS and handle.service.model == "v7.safetensors"
    assert begins_with(manager) == digest
    own = last_output(manager.submit(request(), state=""))
    assert own.stats.initial_state_digest == plain
    assert manager.status().state == FITS and manager.status().state_digest == digest
    assert len(starter.clients) == 1


def test_a_state_of_a_request_is_checked_at_once(make_manager):
    manager = make_manager()
    for wrong, error in (
        (NARROW, "state_mismatch"),
        ("nowhere.pth", "state_not_found"),
        ("../v7.safetensors", "state_not_found"),
    ):
        with raises_code(error):
            manager.submit(request(), state=wrong)
    assert manager.status().phase == "empty"  # nothing was loaded for it
    assert last_output(manager.submit(request(), state=FITS)).error is None


def test_a_state_crosses_to_the_engine_once_and_not_with_each_request(make_manager, monkeypatch):
    from tests.manager.thread_engine import ThreadEngineClient

    sent = []
    send = ThreadEngineClient.send
    monkeypatch.setattr(ThreadEngineClient, "send", lambda self, command: (sent.append(command), send(self, command)))
    manager = make_manager()
    for _ in range(3):
        last_output(manager.submit(request(), state=FITS))
    last_output(manager.submit(request(), state="-"))
    kept = [command for command in sent if isinstance(command, KeepState)]
    assert kept[0].digest == manager.apply_state(FITS).digest and len(kept) == 2
    assert {command.initial_state_digest for command in sent if isinstance(command, Submit)} == {c.digest for c in kept}


def test_many_states_evict_the_oldest_and_it_is_loaded_again(monkeypatch):
    sent = []
    states = [make_start(f"s{n}", float(n)) for n in range(4)]
    kept = KeptStates(sent.append, limit_bytes=2 * states[0].state.nbytes)
    for start in (*states[:3], states[0]):
        assert kept.give(start) == start.info.digest
    story = [(type(command).__name__[:6], command.digest) for command in sent]
    expected = [("KeepSt", "s0"), ("KeepSt", "s1"), ("KeepSt", "s2"), ("Forget", "s0"), ("KeepSt", "s0")]
    assert story == [*expected, ("Forget", "s1")]


def test_snapshots_of_one_beginning_are_never_used_for_another(make_manager):
    """The same long prompt from three initial states, twice each: the result is as in a separate run, the second time
    from memory."""
    manager, prompt = make_manager(), tuple(range(1, 60))
    alone = {state: last_output(make_manager().submit(request(*prompt), state=state)) for state in ("", FITS)}
    for turn in range(2):
        for state in ("", FITS):
            output = last_output(manager.submit(boundary_request(prompt), state=state))
            assert output.token_ids == alone[state].token_ids
            assert (output.stats.cached_tokens > 0) == (turn == 1)


def test_the_zero_state_is_that_of_a_model_without_its_own(make_manager):
    manager = make_manager(state=FITS)
    own = last_output(manager.submit(request(), state="")).stats.initial_state_digest
    assert last_output(manager.submit(request(), state="-")).stats.initial_state_digest == own
    assert manager.apply_state("-").name == "-"
    assert begins_with(manager) == own
    assert manager.status().state == "-"


def test_the_log_proves_what_each_request_was_run_with(make_manager, caplog):
    caplog.set_level(logging.INFO, "webapp.requests")
    manager = make_manager()
    asked = request(top_p=0.5, stop_token_sequences=((9, 9),))
    last_output(manager.submit(asked, state=FITS))
    begins, ends = (json.loads(record.getMessage()) for record in caplog.records)
    digest = manager.apply_state(FITS).digest
    assert begins["event"] == "begins" and begins["request"] == ends["request"] == asked.request_id
    assert (begins["state"], begins["digest"]) == (ends["state"], ends["digest"]) == (FITS, digest)
    assert begins["sampling"]["top_p"] == 0.5 and begins["sampling"]["max_tokens"] == 5
    assert begins["sampling"]["stop_token_sequences"] == 1  # the number, not the content
    assert (begins["model"], begins["strategy"]) == ("v7.safetensors", "fake")
    assert ends["finish_reason"] == "length" and ends["decoded_tokens"] == 5


def test_at_debug_the_log_has_the_digests_of_the_states_a_b_a(make_manager, caplog):
    caplog.set_level(logging.DEBUG, "webapp.requests")
    manager = make_manager(log_level="debug", state_cache_bytes=0)
    for prompt in ((1, 2), (7, 8, 9), (1, 2)):
        last_output(manager.submit(request(*prompt)))
    logged = (json.loads(record.getMessage()) for record in caplog.records)
    first, between, again = ((line["start_state"], line["end_state"]) for line in logged if line["event"] == "ends")
    assert first == again and first[0] == between[0] and first[1] != between[1]
    assert manager.counters()["state_leaks"] == 0


def test_requests_that_wait_for_the_load_keep_their_state(make_manager):
    manager = make_manager("fake load_ms=300")
    handles = [manager.submit(request(), state=state) for state in (FITS, "", FITS)]
    digests = [last_output(handle).stats.initial_state_digest for handle in handles]
    assert digests[0] == digests[2] == manager.apply_state(FITS).digest != digests[1]


def make_start(digest: str, value: float) -> Start:
    state = RecurrentState.zeros(fake_config())
    state.arrays["att_kv"].fill(value)
    return Start(StateInfo("", digest), state)


def boundary_request(prompt: tuple[int, ...]):
    return replace(request(*prompt), boundaries=(len(prompt) - 5,))
