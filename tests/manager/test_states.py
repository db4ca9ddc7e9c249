"""A state becomes the beginning of later sequences at once, or is refused."""

from __future__ import annotations

import pytest

from tests.manager.conftest import assert_failed, eventually, first_token, last_output, request, wait_phase
from webapp.errors import FileMissing, StateMismatch

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
    for wrong, error in ((NARROW, StateMismatch), ("nowhere.pth", FileMissing), ("../../etc/passwd", FileMissing)):
        with pytest.raises(error):
            manager.apply_state(wrong)
        with pytest.raises(error):
            manager.load(state=wrong)
    with pytest.raises(StateMismatch):
        manager.apply_state("v7.safetensors")
    assert manager.status().state == FITS and begins_with(manager) == used


def test_a_state_chosen_before_the_load_or_during_it_counts(make_manager):
    manager = make_manager("fake load_ms=400")
    manager.apply_state(FITS)
    with_state = begins_with(manager)
    other = make_manager("fake load_ms=400", state=FITS)
    assert begins_with(other) == with_state
    third = make_manager("fake load_ms=400")
    handle = third.submit(request())
    wait_phase(third, "loading")
    third.apply_state(FITS)
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
    manager.load("v6.safetensors")  # of the same sizes: it cannot be told apart, so it stays
    assert manager.wait_ready(10).state == FITS
    manager.load("wide.safetensors")
    status = manager.wait_ready(10)
    assert status.state == "" and status.notice["code"] == "state_mismatch"
    manager.apply_state("")
    assert manager.status().notice is None


def test_a_state_named_with_the_load_has_to_fit(make_manager):
    manager = make_manager()
    begins_with(manager)
    with pytest.raises(StateMismatch):
        manager.load("wide.safetensors", state=FITS)
    assert manager.status().model == "v7.safetensors"
    manager.load("v6.safetensors", state=FITS)
    assert manager.wait_ready(10).state == FITS


def test_a_wrong_state_in_the_settings_is_an_error_and_not_left_out_silently(make_manager):
    manager = make_manager(state=NARROW)
    with pytest.raises(StateMismatch):
        manager.submit(request())
    manager.load(state="")
    assert manager.wait_ready(10).state == ""


def test_a_failed_swap_goes_back_to_the_former_state(make_manager):
    manager = make_manager(state=FITS)
    used = begins_with(manager)
    manager.load("wide.safetensors", "fake load_fail=no")
    assert_failed(manager.submit(request()), "load_failed")
    assert eventually(lambda: manager.status().state == FITS)
    assert begins_with(manager) == used
