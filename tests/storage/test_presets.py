import threading

import pytest

from tests.errors import raises_code
from webapp.errors import PresetError, PresetNameTaken, PresetNotFound
from webapp.storage.presets import MAX_PRESETS, Preset, PresetStore

SHIPPED = (Preset("a" * 32, "Starter", shipped_key="starter", sampling={"top_p": 0.2}),)


@pytest.fixture
def presets(database):
    return PresetStore(database, SHIPPED)


def test_a_saved_preset_is_read_completely(presets):
    made = presets.create(
        "Mine", sampling={"temperature": 0.5}, stop=("END", "\n\n"), options={"threads": 2}, state="s.pth"
    )
    assert presets.get(made.id) == made
    assert [preset.name for preset in presets.list()] == ["Mine", "Starter"]


def test_a_name_is_taken_in_any_case_also_by_a_shipped_one(presets):
    presets.create("Mine")
    for name in ("mine", "  MINE ", "starter"):
        with pytest.raises(PresetNameTaken):
            presets.create(name)


def test_the_second_of_two_saves_is_refused_and_changes_nothing(presets):
    made = presets.create("Mine")
    saved = presets.update(made.id, made.updated_at, note="first")
    with raises_code("preset_changed"):
        presets.update(made.id, made.updated_at, note="second")
    assert presets.get(made.id) == saved


def test_of_saves_at_once_exactly_one_wins(presets):
    made, outcomes = presets.create("Mine"), []

    def save(note):
        try:
            outcomes.append(presets.update(made.id, made.updated_at, note=note).note)
        except PresetError:
            outcomes.append(None)

    threads = [threading.Thread(target=save, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [note for note in outcomes if note] == [presets.get(made.id).note]


def test_an_edited_shipped_preset_can_be_reset_and_a_deleted_one_restored(presets):
    key = SHIPPED[0].id
    assert presets.update(key, 0.0, note="edited").is_edited
    assert presets.reset(key) == SHIPPED[0] and not presets.get(key).is_edited
    presets.delete(key)
    assert presets.list() == [] and presets.hidden_shipped() == [SHIPPED[0]]
    presets.purge_deleted(9e9)
    assert presets.list() == []
    assert presets.restore(key) == SHIPPED[0] and presets.get(key) == SHIPPED[0]


def test_an_unchanged_shipped_preset_follows_the_next_version(presets, database):
    presets.delete(SHIPPED[0].id)
    presets.restore(SHIPPED[0].id)
    newer = Preset(SHIPPED[0].id, "Starter", shipped_key="starter", sampling={"top_p": 0.4})
    assert PresetStore(database, (newer,)).get(newer.id) == newer


def test_delete_is_undone_and_gives_way_to_a_name_taken_meanwhile(presets):
    made = presets.create("Mine", note="kept")
    presets.delete(made.id)
    with pytest.raises(PresetNotFound):
        presets.get(made.id)
    presets.create("Mine")
    assert (presets.restore(made.id).name, presets.get(made.id).note) == ("Mine (2)", "kept")


def test_copies_get_numbers(presets):
    names = [presets.duplicate(SHIPPED[0].id).name for _ in range(2)]
    assert names == ["Starter (2)", "Starter (3)"]
    assert presets.list()[0].shipped_key == "" and presets.list()[0].sampling == {"top_p": 0.2}


def test_an_import_is_all_or_none(presets):
    with raises_code("too_many_presets"):
        presets.create_all([Preset("", f"p{n}") for n in range(MAX_PRESETS)])
    assert len(presets.list()) == 1
    assert [made.name for made in presets.create_all([Preset("", "x"), Preset("", "X")])] == ["x", "X (2)"]


def test_only_a_living_preset_becomes_active(presets):
    assert presets.active_id() == ""
    presets.set_active(SHIPPED[0].id)
    with pytest.raises(PresetNotFound):
        presets.set_active("nowhere")
    assert presets.active_id() == SHIPPED[0].id
