"""Tool definitions are read as they were saved, and no partial data remains."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from webapp.errors import ToolInvalid
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.storage.records import ChatTools, chat_tools_from_json
from webapp.storage.tools import ToolStore
from webapp.tools.definition import Approval, Behaviour, HttpCall, ToolDefinition

WEATHER = ToolDefinition(
    "get_weather",
    "天气",
    {"type": "object", "properties": {"city": {"type": "string"}}},
    Behaviour.HTTP,
    http=HttpCall("https://a.example/{city}", "POST", {"X-Key": "k"}, 3.0),
    approval=Approval.ONCE,
)


@pytest.fixture
def store(tmp_path):
    database = Database(str(tmp_path / "roost.db"))
    yield ToolStore(database)
    database.close()


def test_a_definition_is_read_as_it_was_saved(store: ToolStore) -> None:
    made = store.create(WEATHER)
    assert store.get(made.id) == made and store.list() == [made]
    changed = store.update(made.id, replace(WEATHER, behaviour=Behaviour.FIXED, fixed_value="22"), made.updated_at)
    assert store.get(made.id) == changed and changed.updated_at > made.updated_at


def test_names_are_unique_and_a_refused_import_leaves_nothing(store: ToolStore) -> None:
    made = store.create(WEATHER)
    with pytest.raises(ToolInvalid):
        store.create_all([replace(WEATHER, name="other"), WEATHER])
    assert store.list() == [made]
    other = store.create(replace(WEATHER, name="other"))
    with pytest.raises(ToolInvalid):
        store.update(other.id, WEATHER)


def test_a_form_that_saw_an_older_version_overwrites_nothing(store: ToolStore) -> None:
    made = store.create(WEATHER)
    store.update(made.id, replace(WEATHER, description="newer"))
    with pytest.raises(ToolInvalid):
        store.update(made.id, replace(WEATHER, description="older"), made.updated_at)
    assert store.get(made.id).definition.description == "newer"


def test_a_deleted_tool_is_gone_until_it_is_restored(store: ToolStore) -> None:
    made = store.create(WEATHER)
    store.delete(made.id)
    assert store.list() == [] and store.by_ids([made.id]) == []
    with raises_code("tool_not_found"):
        store.get(made.id)
    assert store.restore(made.id) == made
    store.delete(made.id)
    store.create(WEATHER)
    with pytest.raises(ToolInvalid):
        store.restore(made.id)


def test_a_chat_remembers_its_tools(store: ToolStore) -> None:
    chats = ChatStore(store.database)
    chat = chats.create()
    assert chats.get(chat.id).tools == ChatTools()
    tools = ChatTools(True, True, ("a", "b"), "hermes", True, ("a",))
    chats.set_tools(chat.id, tools)
    assert chats.get(chat.id).tools == tools


def test_a_chat_kept_before_presets_had_tools_chose_its_own() -> None:
    assert chat_tools_from_json('{"is_on": true, "tool_ids": ["a"]}').is_own
    assert not chat_tools_from_json('{"is_on": false, "tool_ids": []}').is_own
    assert not chat_tools_from_json('{"is_own": false, "is_on": true, "tool_ids": ["a"]}').is_own


def test_every_change_gives_another_revision(store):
    seen = [store.database.revisions.get("tools")]
    made = store.create(ToolDefinition("clock", ""))
    for change in (
        lambda: None,
        lambda: store.update(made.id, ToolDefinition("watch", "")),
        lambda: store.delete(made.id),
        lambda: ToolStore(store.database).restore(made.id),
    ):
        change()
        seen.append(store.database.revisions.get("tools"))
    store.list()
    assert len(set(seen)) == 5 and store.database.revisions.get("tools") == seen[-1]
