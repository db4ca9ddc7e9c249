"""Every wrong state file gets a reason, the current state stays, and the model continues to answer."""

from __future__ import annotations

import os

import pytest

from tests.manager.conftest import last_output, request
from tests.manager.thread_engine import start_engine_in_thread
from tests.manager.wrong_states import HEADS, LAYERS, SIZE, TITLES, TRACE, good, write_wrong
from tests.weights.make_checkpoints import write_checkpoint, write_tensors
from webapp.engine.outputs import FinishReason
from webapp.errors import WeightsError, translate_error
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.settings import Settings


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A manager with a v7 model and a state in use, and its states folder."""
    folder = tmp_path_factory.mktemp("house")
    sizes = {"n_layer": LAYERS, "n_embd": HEADS * SIZE, "head_size": SIZE}
    write_checkpoint(folder / "m.pth", "7", **sizes)
    (folder / "states").mkdir()
    write_tensors(folder / "states" / "good.pth", good())
    settings = Settings(data_dir=folder, models_dir=folder, model="m.pth", strategy="fake", state="good.pth")
    manager = ModelManager(settings, start_engine_in_thread, ModelLibrary(folder, folder))
    last_output(manager.submit(request()))
    yield manager, folder / "states"
    manager.close()


def test_there_are_sixty_and_more():
    assert len(TITLES) == len(set(TITLES)) >= 60


@pytest.mark.parametrize("title", TITLES)
def test_a_wrong_state_is_refused_with_its_reason_and_nothing_changes(house, title, tmp_path):
    manager, states = house
    before = manager.status()
    name = write_wrong(title, tmp_path)
    wrong = states / name
    os.rename(tmp_path / name, wrong)
    try:
        for refuse in (lambda: manager.apply_state(name), lambda: manager.submit(request(), state=name)):
            with pytest.raises(WeightsError) as caught:
                refuse()
            error = caught.value
            assert name in error.message and "?" not in error.message
            assert "?" not in translate_error(error, "zh")[0]
            if error.code == "state_mismatch":
                assert error.params["expected"] and error.params["found"]
                assert error.params["expected"] != error.params["found"]
    finally:
        wrong.rmdir() if wrong.is_dir() else wrong.unlink()
    status = manager.status()
    assert (status.state, status.state_digest, status.phase) == ("good.pth", before.state_digest, "ready")
    assert not TRACE.exists()


def test_after_all_of_them_the_model_answers_from_its_state(house):
    manager, _ = house
    output = last_output(manager.submit(request()))
    assert output.finish_reason is FinishReason.LENGTH
    assert output.stats.initial_state_digest == manager.status().state_digest
