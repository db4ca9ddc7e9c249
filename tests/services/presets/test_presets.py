"""Presets with a real manager and the fake backend: the next answer uses the saved values."""

import json
import logging
import threading

import pytest
import torch

from tests.errors import raises_code
from tests.manager.thread_engine import start_engine_in_thread
from tests.weights.make_checkpoints import write_checkpoint
from webapp.errors import PresetNotFound
from webapp.manager.manager import ModelManager
from webapp.services.chat.turns import ChatTurns
from webapp.services.presets.presets import Presets
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database

STRATEGY = "fake script=73,106,1"
STARTER = "roost-starter-v7.safetensors"


def write_state(path, seed, layers=1, heads=1):
    torch.manual_seed(seed)
    torch.save({f"blocks.{n}.att.time_state": torch.randn(heads, 64, 64) for n in range(layers)}, path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in (STARTER, "other.safetensors"):
        write_checkpoint(folder / name, "7", n_layer=1, n_embd=64, vocab_size=65536)
    (folder / "states").mkdir()
    write_state(folder / "states" / "kind.pth", 1)
    write_state(folder / "states" / "wide.pth", 2, heads=2)
    return folder


class House:
    def __init__(self, tmp_path, models, **settings):
        self.settings = Settings(data_dir=tmp_path, models_dir=models, **{"strategy": STRATEGY, **settings})
        self.starts = 0
        self.manager = ModelManager(self.settings, self.start_engine)
        self.database = Database(tmp_path / "roost.db")
        self.presets = Presets(self.manager, self.database, self.settings)
        self.presets.begin()
        self.store = ChatStore(self.database)
        self.turns = ChatTurns(self.manager, self.database, self.settings, self.presets)

    def start_engine(self, *args, **options):
        self.starts += 1
        return start_engine_in_thread(*args, **options)

    def ask(self, **chat):
        chat = self.store.create(**chat)
        turn = self.turns.send(chat.id, "Hello")
        assert turn.wait_finished(60)
        return self.store.message(turn.message_id)

    def close(self):
        self.turns.close()
        self.manager.close()
        self.database.close()


@pytest.fixture
def open_house(tmp_path, models):
    opened = []

    def open_house(**settings):
        for house in opened:
            house.close()
        opened.append(House(tmp_path, models, **settings))
        return opened[-1]

    yield open_house
    for house in opened:
        house.close()


def logged(caplog):
    rows = [json.loads(record.getMessage()) for record in caplog.records if record.name == "webapp.requests"]
    return [row for row in rows if row["event"] == "begins"]


def test_a_page_rendered_as_of_an_earlier_moment_does_not_hide_a_new_preset(open_house):
    """The page's thread reads in one transaction of the database, and the list of presets is cached for all threads."""
    house = open_house()
    with house.database.connect():
        house.store.list()
        made = []
        elsewhere = threading.Thread(target=lambda: made.append(house.presets.create("Bold")))
        elsewhere.start()
        elsewhere.join()
        house.presets.list()
    assert house.presets.get(made[0].id).name == "Bold"


def test_the_starter_is_the_preset_until_one_is_chosen_and_general_for_another_model(open_house):
    house = open_house()
    assert house.presets.active().shipped_key == "starter" and house.presets.differences(house.presets.active()) == ()
    house.manager.load(model="other.safetensors")
    house.manager.wait_ready(60)
    assert house.presets.active().shipped_key == "general"


def test_the_next_answer_uses_what_was_saved_without_a_reload(open_house, caplog):
    house = open_house()
    caplog.set_level(logging.INFO, "webapp.requests")
    mine = house.presets.create("Mine", {"temperature": 0.5})
    house.presets.apply(mine.id)
    house.manager.wait_ready(60)
    house.ask()
    outcome = house.presets.save(mine.id, {"temperature": 0.9, "state": "kind.pth"}, mine.updated_at)
    assert (outcome.applied, outcome.needs_reload) == (("temperature", "state"), ())
    stored = house.ask()
    before, after = logged(caplog)
    assert (before["sampling"]["temperature"], after["sampling"]["temperature"]) == (0.5, 0.9)
    assert before["digest"] == "" and after["digest"] and after["state"] == "kind.pth"
    assert (stored.stats["preset"], stored.stats["state"]) == ("Mine", "kind.pth")
    assert house.starts == 1


def test_a_state_that_does_not_fit_is_refused_and_nothing_is_saved(open_house):
    house = open_house()
    mine = house.presets.create("Mine", {"state": "kind.pth"})
    house.presets.apply(mine.id)
    for name, error in (
        ("wide.pth", "state_mismatch"),
        ("gone.pth", "state_not_found"),
        ("../../kind.pth", "preset_invalid"),
    ):
        with raises_code(error):
            house.presets.save(mine.id, {"state": name, "temperature": 0.1})
    assert house.presets.get(mine.id) == mine
    assert house.manager.status().state == "kind.pth"


def test_a_change_of_strategy_asks_for_a_reload_and_applying_makes_it(open_house):
    house = open_house()
    mine = house.presets.create("Mine")
    house.presets.apply(mine.id)
    house.manager.wait_ready(60)
    outcome = house.presets.save(mine.id, {"strategy": STRATEGY + " delay_ms=1", "top_p": 0.6})
    assert (outcome.applied, outcome.needs_reload) == (("top_p",), ("strategy",))
    assert house.presets.differences(outcome.preset) == ("strategy",)
    house.presets.apply(mine.id)
    assert house.manager.wait_ready(60).strategy == STRATEGY + " delay_ms=1" and house.starts == 2
    assert house.presets.differences(outcome.preset) == ()


def test_an_unused_preset_may_name_a_model_that_is_not_here(open_house):
    house = open_house()
    coding = house.presets.find("Coding")
    assert house.presets.problem(coding).code == "model_not_found"
    assert house.presets.differences(coding) == ("model",)
    assert house.presets.save(coding.id, {"temperature": 0.4}, 0.0).preset.is_edited


def test_what_cannot_be_loaded_leaves_the_active_preset_as_it_was(open_house):
    house = open_house()
    mine = house.presets.create("Mine")
    house.presets.apply(mine.id)
    with raises_code("model_not_found"):
        house.presets.apply(house.presets.find("coding").id)
    assert house.presets.active().id == mine.id


def test_a_chat_answers_with_its_own_preset_and_its_own_values_above_it(open_house, caplog):
    house = open_house()
    caplog.set_level(logging.INFO, "webapp.requests")
    values = {"temperature": 0.2, "top_p": 0.7, "stop": ["i"], "state": "kind.pth", "system_prompt": "Be kind."}
    preset = house.presets.create("Own", values)
    stored = house.ask(preset_id=preset.id, sampling={"top_p": 0.1})
    (begun,) = logged(caplog)
    assert (begun["sampling"]["temperature"], begun["sampling"]["top_p"], begun["state"]) == (0.2, 0.1, "kind.pth")
    assert (stored.stats["preset"], stored.message.content) == ("Own", "H")
    house.ask(preset_id=preset.id, state="")
    house.ask()
    assert [row["state"] for row in logged(caplog)[1:]] == ["", ""]


def test_a_chat_whose_preset_is_gone_follows_the_active_one_until_it_is_back(open_house):
    house = open_house()
    preset = house.presets.create("Own")
    chat = house.store.create(preset_id=preset.id)
    house.presets.delete(preset.id)
    assert house.presets.of_chat(chat).shipped_key == "starter"
    house.presets.restore(preset.id)
    assert house.presets.of_chat(chat) == preset


def test_the_active_preset_is_there_again_after_a_restart_with_its_model(open_house):
    house = open_house()
    house.presets.apply(house.presets.create("Mine", {"model": "other.safetensors", "state": "kind.pth"}).id)
    house = open_house()
    assert house.presets.active().name == "Mine"
    assert (house.manager.status().model, house.manager.status().state) == ("other.safetensors", "kind.pth")
    assert open_house(model=STARTER).manager.status().model == STARTER


def test_an_active_preset_whose_model_is_gone_does_not_stop_a_start(open_house):
    house = open_house()
    house.presets.set_active(house.presets.find("Coding").id)
    house = open_house()
    assert house.manager.status().model == STARTER and house.ask().status == "complete"


def test_a_start_can_name_the_preset(open_house):
    assert open_house(preset="precise").presets.active().shipped_key == "precise"
    with raises_code("settings_invalid", key="reason.services.no_such_preset"):
        open_house(preset="nowhere")


def test_deleting_both_usual_presets_leaves_one_to_answer_with(open_house):
    house = open_house()
    for key in ("starter", "general"):
        house.presets.delete(house.presets.find(key).id)
    assert house.presets.active().shipped_key == "starter" and house.ask().status == "complete"


def test_a_save_over_someone_elses_is_refused(open_house):
    house = open_house()
    mine = house.presets.create("Mine")
    house.presets.save(mine.id, {"note": "theirs"}, mine.updated_at)
    with raises_code("preset_changed"):
        house.presets.save(mine.id, {"note": "mine"}, mine.updated_at)


def test_listeners_hear_of_every_change(open_house):
    house, heard = open_house(), []
    house.presets.listen(lambda: heard.append(1))
    mine = house.presets.create("Mine")
    for change in (
        lambda: house.presets.save(mine.id, {"note": "n"}),
        lambda: house.presets.rename(mine.id, "Other"),
        lambda: house.presets.duplicate(mine.id),
        lambda: house.presets.delete(mine.id),
        lambda: house.presets.restore(mine.id),
        lambda: house.presets.import_text(house.presets.export_json()),
        lambda: house.presets.apply(mine.id),
    ):
        count = len(heard)
        change()
        assert len(heard) == count + 1


def test_what_is_not_there_says_so(open_house):
    house = open_house()
    for ask in (
        house.presets.get,
        house.presets.delete,
        house.presets.restore,
        house.presets.apply,
        house.presets.reset,
    ):
        with pytest.raises(PresetNotFound):
            ask("../../etc/passwd")
