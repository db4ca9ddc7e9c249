import pytest

from webapp.errors import ChatNotFound
from webapp.services.chat.chat_file import chat_document
from webapp.storage.chats import ChatStore
from webapp.storage.credentials import Sessions
from webapp.storage.database import Database
from webapp.storage.migrations import MIGRATIONS
from webapp.storage.people import People
from webapp.storage.records import OWNER_ID

BEFORE_PEOPLE = 12


def test_earlier_data_belongs_to_the_owner_and_guests_continue_as_separate_people(tmp_path, monkeypatch):
    path = tmp_path / "roost.db"
    with monkeypatch.context() as patched:
        patched.setattr("webapp.storage.database.MIGRATIONS", MIGRATIONS[:BEFORE_PEOPLE])
        old = Database(path)
    with old.transaction() as connection:
        connection.execute("INSERT INTO chats (id, title, created_at, updated_at) VALUES ('c', 'Old', 0, 0)")
        for key, role in (("a" * 64, "owner"), ("b" * 64, "guest"), ("c" * 64, "guest")):
            row = (key, role, "", "", 5.0, 4e9)
            connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)", row)
    old.close()
    database = Database(path)
    people = People(database)
    assert [chat.title for chat in ChatStore(database, OWNER_ID).list()] == ["Old"]
    whose = {session.key[0]: session.person_id for session in Sessions(database).list()}
    assert whose["a"] == OWNER_ID and len(set(whose.values())) == 3
    assert [people.find(whose[key]).kind for key in "abc"] == ["owner", "guest", "guest"]
    assert ChatStore(database, whose["b"]).list() == []


def test_a_person_is_kept_and_is_found_until_revoked(database):
    people = People(database)
    made = people.add(name="Anna")
    people.saw(made)
    assert People(database).find(made.id).name == "Anna"
    people.change(made.id, revoked_at=1.0)
    assert people.find(made.id) is None and People(database).find(made.id) is None
    assert made.id in {person.id for person in people.list()}


def test_a_persons_sessions_end_together_and_watchers_are_notified(database):
    sessions, told = Sessions(database), []
    keys = []
    for _ in range(3):
        sessions.begin("guest", person_id="anna")
        keys = [session.key for session in sessions.of("anna")]
    other = sessions.begin("guest", person_id="ben")
    with sessions.watched(keys[0], lambda: told.append("first")), sessions.watched(keys[1], lambda: told.append("2nd")):
        sessions.look_again("anna")
        assert sorted(told) == ["2nd", "first"] and len(sessions.of("anna")) == 3
        sessions.end_all("anna", but=keys[2])
    assert [session.key for session in sessions.of("anna")] == [keys[2]]
    assert sessions.find(other).person_id == "ben"


def test_a_store_for_one_person_knows_no_other_chats(database):
    anna, ben, everybody = (ChatStore(database, who) for who in ("anna", "ben", None))
    chat = anna.create("Hers")
    for ask in (ben.get, ben.branch, ben.whole, ben.delete, ben.restore, ben.check):
        with pytest.raises(ChatNotFound):
            ask(chat.id)
    moment, _ = anna.delete_all([chat.id])
    ben.restore_all(moment)
    with pytest.raises(ChatNotFound):
        anna.get(chat.id)
    anna.restore_all(moment)
    assert anna.get(chat.id).person_id == everybody.person_of(chat.id) == "anna"
    assert "person_id" not in chat_document(anna, chat.id)["chat"]
    anna.place([chat.id], folder="Secret")
    assert (anna.folders(), ben.folders()) == (["Secret"], [])
