"""The status strip, rendered from a status."""

from __future__ import annotations

import threading
import urllib.request

import pytest
from msgspec.structs import replace

from tests.web.chat.running_roost import RunningRoost, fake_strategy
from webapp.backends.native.backend import NativeBackend
from webapp.chat.messages import Waiting
from webapp.engine.backend import Availability
from webapp.i18n import translate
from webapp.manager import memory
from webapp.manager.target import ModelStatus
from webapp.web.chat.views import waiting_text
from webapp.web.status import strip


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_a_load_reports_its_step(locale):
    def t(key, **values):
        return translate(key, locale, **values)

    loading = ModelStatus(phase="loading", done_bytes=30, total_bytes=100)
    compiling = replace(loading, step="compiling", step_done=7, step_total=21)
    plain, quantising, counted = (strip(each, t) for each in (loading, replace(loading, step="quantising"), compiling))
    assert plain["percent"] == quantising["percent"] == 30
    assert len({plain["word"], quantising["word"], counted["word"]}) == 3
    assert "30" in quantising["word"] and "7" in counted["word"] and "21" in counted["word"]


@pytest.mark.parametrize("locale", ["en", "zh"])
@pytest.mark.parametrize("phase", ["answering", "loading"])
def test_an_engine_that_does_not_answer_is_said_with_its_seconds(phase, locale):
    def t(key, **values):
        return translate(key, locale, **values)

    silent, well = (strip(ModelStatus(phase=phase, silent_s=seconds), t) for seconds in (37, 0))
    assert "37" in silent["word"] and silent["light"] == "waiting"
    assert silent["word"] != well["word"]
    assert "37" in waiting_text(Waiting("silent", 37), t)
    assert waiting_text(Waiting("silent", 0), t) == waiting_text(None, t)


NOTES = {
    "compiling": Availability(True, is_ready=False),
    "no_compiler": Availability(False, "no compiler", is_ready=False),
    "failed": Availability(False, "an error", is_ready=False, has_failed=True),
}


@pytest.mark.parametrize("note", NOTES)
def test_what_keeps_a_better_engine_away_is_said_where_the_engine_was_chosen_by_itself(note, tmp_path, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(NativeBackend, "availability", lambda: NOTES[note])
    monkeypatch.setattr(NativeBackend, "prepare", lambda: over.wait(60))
    monkeypatch.setattr(memory, "read_gpus", lambda: ())
    roost = RunningRoost(tmp_path, "auto")
    try:
        for locale in ("en", "zh"):
            shown = roost.get(f"/models?lang={locale}")
            assert f'data-engine-note="{note}"' in shown and f'data-code="{note}"' in shown and "torch cpu q8" in shown
            assert "status.engine" not in shown and "models.engine" not in shown
        roost.app.extensions["model_manager"].choose(strategy="cpu fp32")
        shown = roost.get("/models")
        assert "data-engine-note" not in shown and f'data-code="{note}"' not in shown
    finally:
        over.set()
        roost.stop()


def posted(roost: RunningRoost, body: bytes) -> str:
    """The menu in the response to a script of the page."""
    headers = {"Origin": roost.url, "HX-Request": "true"}
    with urllib.request.urlopen(urllib.request.Request(roost.url + "/status/load", body, headers)) as answer:
        return answer.read().decode()


def test_a_model_that_does_not_fit_is_asked_about_in_the_menu(tmp_path, monkeypatch):
    roost = RunningRoost(tmp_path, fake_strategy())
    try:
        monkeypatch.setattr(memory, "available_bytes", lambda: 0)
        refused = posted(roost, b"model=roost-starter-v7.safetensors")
        assert 'name="anyway"' in refused and 'name="anyway"' in roost.get("/models")
        assert 'name="anyway"' not in posted(roost, b"anyway=1")
        assert roost.app.extensions["model_manager"].wait_ready(60).phase == "ready"
    finally:
        roost.stop()
