"""Limits per person: counted, refused in time, and the order of waiting requests."""

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from webapp.engine.outputs import FinishReason, GenerationRequest, SequenceStats, TokenOutput
from webapp.engine.sampling_params import SamplingParams
from webapp.manager.handles import PERSON
from webapp.services import limits as module
from webapp.services.limits import Limits, PersonQuota
from webapp.settings import Settings
from webapp.storage.database import Database
from webapp.storage.people import People

GUESTS = {"guest_answers": 2, "guest_day_tokens": 100, "guest_answer_tokens": 50}


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "roost.db")


@pytest.fixture
def people(database):
    return People(database)


@pytest.fixture
def quota(database, people):
    return PersonQuota(database, people, Settings(**GUESTS))


@pytest.fixture
def guest(people):
    return people.add(kind="guest", name="Ada")


def request_of(person, most=1000):
    return GenerationRequest("r", (1, 2), SamplingParams(max_tokens=most), client=f"{PERSON}{person.id}")


def ended(read, written):
    return TokenOutput(
        "r", finish_reason=FinishReason.STOP, stats=SequenceStats(prefilled_tokens=read, decoded_tokens=written)
    )


def test_a_guest_has_the_limits_of_the_settings_and_the_owner_none(quota, people, guest):
    account = people.add(kind="account", name="Ben")
    assert quota.of(guest.id) == Limits(2, 100, 50)
    assert quota.of("owner") == quota.of(account.id) == quota.of("nobody") == Limits(0, 0, 0)


def test_the_owners_limits_for_a_person_have_priority_and_last(quota, database, people, guest):
    quota.set(guest.id, Limits(answers=0, day_tokens=7))
    assert quota.of(guest.id) == PersonQuota(database, people, Settings(**GUESTS)).of(guest.id) == Limits(0, 7, 50)


def test_a_longer_answer_is_cut_to_what_is_allowed(quota, guest):
    assert quota.fitted(request_of(guest)).params.max_tokens == 50
    assert quota.fitted(request_of(guest, 20)).params.max_tokens == 20
    assert quota.fitted(replace(request_of(guest), client="192.0.2.1")).params.max_tokens == 1000


def test_as_many_answers_at_once_as_allowed(quota, guest):
    client = request_of(guest).client
    quota.check(client, 1)
    with raises_code("person_busy", limit=2):
        quota.check(client, 2)
    quota.check("192.0.2.1", 99)


def test_the_tokens_of_a_day_are_counted_and_stored(quota, database, people, guest, monkeypatch):
    client = request_of(guest).client
    quota.note(client, ended(60, 20))
    quota.fitted(request_of(guest))
    quota.note(client, ended(10, 15))
    quota.store()
    again = PersonQuota(database, people, Settings(**GUESTS))
    assert quota.used_today(guest.id) == again.used_today(guest.id) == 105
    with raises_code("person_tokens_used", limit=100) as caught:
        again.fitted(request_of(guest))
    assert 0 < caught.value.params["retry_after_s"] <= 86_401
    monkeypatch.setattr(module, "_today", lambda: "2999-01-01")
    assert again.fitted(request_of(guest))


def test_an_answer_that_failed_without_figures_costs_nothing(quota, guest):
    quota.note(request_of(guest).client, TokenOutput("r", finish_reason=FinishReason.ERROR))
    assert quota.used_today(guest.id) == 0
