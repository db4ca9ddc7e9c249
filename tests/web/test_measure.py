"""The page "Measure this machine" without a browser: a measurement from its start to its figures on other pages."""

from __future__ import annotations

import re

import pytest

from tests.manager.thread_engine import start_engine_in_thread
from tests.waiting import wait_until
from tests.web.apps import open_app
from tests.web.models.conftest import Browser
from tests.web.owner import owner_client
from tests.weights.make_checkpoints import write_checkpoint
from webapp.services.bench.measurements import KIND, Measurements
from webapp.settings import Settings
from webapp.web.measure import bars, line

FAKE = "fake vocab=256"


@pytest.fixture
def browser(tmp_path, monkeypatch):
    monkeypatch.setattr("webapp.services.bench.speed.RUN_S", 0.05)
    monkeypatch.setattr("webapp.services.bench.speed.read_bandwidth", lambda threads: 2e10)
    models = tmp_path / "models"
    models.mkdir()
    write_checkpoint(models / "tiny.pth", "7", n_layer=1, n_embd=64, vocab_size=256)
    settings = Settings(data_dir=tmp_path / "data", models_dir=models, strategy=FAKE, open_browser=False)
    with open_app(settings) as app:
        parts = (app.extensions[name] for name in ("model_manager", "database", "jobs"))
        app.extensions["measurements"] = Measurements(*parts, settings, start_engine_in_thread)
        yield Browser(owner_client(app), models, app)


def measured(browser, strategy=FAKE):
    jobs = browser.app.extensions["jobs"]
    before = len(jobs.jobs(KIND))
    assert browser.post("/measure", model="tiny.pth", strategy=strategy, plan="quick")[0] == 200
    assert len(jobs.jobs(KIND)) == before + 1
    wait_until(lambda: all(job.is_over for job in jobs.jobs(KIND)))
    return jobs.jobs(KIND)[0]


def test_a_measurement_has_a_chart_and_gives_the_models_speed_here(browser):
    page = browser.get("/measure")[1]
    assert '<option value="tiny.pth">' in page and "data-measurement" not in page
    assert "data-speed" not in browser.get("/models")[1]
    job = measured(browser)
    assert (job.status, job.done, job.total) == ("done", 12, 12), job.error
    part = browser.part("/measure")[1]
    assert f'data-strategy="{FAKE}"' in part and "<html" not in part and "every 2s" not in part
    assert part.count("<rect class=") == 4 and "<polyline" not in part
    assert "data-speed" in browser.get("/models")[1]
    measured(browser)
    assert "<polyline" in browser.part("/measure")[1]
    for measurement_id in re.findall(r'data-measurement="(\w+)"', browser.part("/measure")[1]):
        browser.post(f"/measure/{measurement_id}/delete")
    assert "data-measurement" not in browser.part("/measure")[1]
    assert "data-speed" not in browser.get("/models")[1]
    assert browser.post(f"/measure/{measurement_id}/delete")[0] == 404


def test_what_cannot_be_measured_is_said_in_its_place(browser):
    for model, strategy, code in (("gone.pth", FAKE, "model_not_found"), ("tiny.pth", "cup fp32", "strategy_invalid")):
        status, page = browser.post("/measure", model=model, strategy=strategy, plan="quick")
        assert status == 422 and f'data-code="{code}"' in page
    assert measured(browser, "fake fail_at=1").status == "failed"
    assert "data-measurement" not in browser.part("/measure")[1]


def test_a_cancelled_measurement_ends_its_engine_and_leaves_nothing(browser):
    jobs = browser.app.extensions["jobs"]
    browser.post("/measure", model="tiny.pth", strategy="fake delay_ms=50", plan="thorough")
    job = jobs.jobs(KIND)[0]
    wait_until(lambda: jobs.job(job.id).phase == "measuring")
    jobs.cancel(job.id)
    wait_until(lambda: jobs.job(job.id).is_over)
    assert jobs.job(job.id).status == "cancelled" and "data-measurement" not in browser.part("/measure")[1]


class Page:
    def t(self, key, **params):
        return f"{key} {params}"


def test_bars_are_proportional_and_the_spread_stays_inside():
    runs = [
        {"sequences": 1, "decode_tokens_per_s": 50.0, "spread": {"decode_tokens_per_s": [40.0, 60.0]}},
        {"sequences": 8, "decode_tokens_per_s": 100.0, "spread": {"decode_tokens_per_s": [100.0, 200.0]}},
    ]
    found = bars(Page(), runs)
    assert [row["width"] for row in found["rows"]] == [80.0, 160.0]
    assert [(row["low"], row["high"]) for row in found["rows"]] == [(64.0, 96.0), (160.0, 319.0)]
    assert bars(Page(), []) is None and line(Page(), []) is None
