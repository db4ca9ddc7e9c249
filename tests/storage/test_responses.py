"""Stored API responses: how long they are kept, and what is deleted with them."""

import time

from tests.errors import raises_code
from webapp.chat.messages import Message, Role
from webapp.storage.people import GUEST, SHARED_ID, People
from webapp.storage.programs import ResponseStore, StateHandle, StateHandles


def kept_response(number, previous_id=None):
    return {"id": f"resp_{number}", "previous_response_id": previous_id, "output": [{"id": f"msg_{number}"}]}


def is_gone(store, number):
    for ask_for in (lambda: store.body(f"resp_{number}"), lambda: store.item(f"msg_{number}", "input[0].id")):
        with raises_code("answer_not_found"):
            ask_for()
    return True


def test_the_oldest_answers_make_room_and_their_snapshots_go(database):
    store, released = ResponseStore(database, days=30, most_bytes=20_000), []
    for number in range(50):
        shared = ["shared", f"own_{number}"]
        released += store.keep(kept_response(number), [], (Message(Role.USER, "x" * 1500),), shared)
    assert store.body("resp_49")["output"][0]["id"] == "msg_49" and is_gone(store, 0)
    assert "own_0" in released and "shared" not in released


def test_an_answer_is_deleted_after_its_days_unless_it_was_continued(database, monkeypatch):
    store, now = ResponseStore(database, days=1), time.time()
    monkeypatch.setattr("webapp.storage.programs.time.time", lambda: now)
    store.keep(kept_response(0), [], (Message(Role.USER, "a"),), ["first"])
    now += 50_000
    store.keep(kept_response(1, "resp_0"), [], (Message(Role.USER, "b"),), ["second"])
    now += 50_000
    assert is_gone(store, 0)
    assert [message.content for message in store.messages("resp_1")] == ["a", "b"]
    assert store.delete("resp_1") == ["second", "first"]
    with database.connect() as connection:
        for table in ("responses", "response_items", "snapshot_uses"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0


def test_later_answers_continue_after_one_between_was_deleted(database):
    store = ResponseStore(database, days=1)
    for number, before in enumerate((None, "resp_0", "resp_1")):
        store.keep(kept_response(number, before), [{"id": f"in_{number}"}], (Message(Role.USER, str(number)),))
    assert store.delete("resp_1") == [] and is_gone(store, 1)
    assert [message.content for message in store.messages("resp_2")] == ["0", "1", "2"]
    assert [item["id"] for item in store.items("resp_2")] == ["in_0", "msg_0", "in_1", "msg_1", "in_2"]


def test_one_long_conversation_may_evict_those_of_others(database):
    most, other = (ResponseStore(database, 30, person, most_bytes=20_000) for person in ("owner", SHARED_ID))
    other.keep(kept_response("other"), [], (Message(Role.USER, "x" * 3000),))
    for number in range(10):
        before = f"resp_{number - 1}" if number else None
        most.keep(kept_response(number, before), [], (Message(Role.USER, "x" * 1700),))
    assert is_gone(other, "other") and len(most.messages("resp_9")) == 10
    with database.connect() as connection:
        assert connection.execute("SELECT sum(size_bytes) FROM responses").fetchone()[0] <= 20_000


def test_nothing_is_kept_of_a_person_who_was_removed_while_the_answer_was_written(database):
    people = People(database)
    person = people.add(kind=GUEST, name="Anna")
    responses, states = ResponseStore(database, 30, person.id), StateHandles(database, 30, person.id)
    people.remove(person.id)
    assert responses.keep(kept_response(0), [], (Message(Role.USER, "a"),), ["first"]) == ["first"]
    assert states.add(StateHandle("", (1, 2)), ("second",))[1] == ["second"]
    with database.connect() as connection:
        for table in ("responses", "response_items", "state_handles", "snapshot_uses"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0, table
