"""The conversion page without a browser: its choices, refusals, display and results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.services.test_conversion import run_here
from tests.waiting import wait_until
from tests.web.apps import open_app
from tests.web.models.conftest import Browser
from tests.web.owner import owner_client
from tests.weights.make_checkpoints import write_checkpoint, write_tensors
from tests.wording import pattern, says
from webapp.services import conversion
from webapp.settings import Settings


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    monkeypatch.setattr(conversion, "run_program", run_here)
    models = tmp_path / "models"
    models.mkdir()
    write_checkpoint(models / "raw.pth", "7", n_layer=1, n_embd=64)
    write_checkpoint(models / "six.pth", "6", n_layer=1, n_embd=64, time_state=True)
    settings = Settings(data_dir=tmp_path / "data", models_dir=models, strategy="fake", open_browser=False)
    with open_app(settings) as app:
        yield Browser(owner_client(app), models, app)


def finish(browser: Browser) -> None:
    jobs = browser.app.extensions["jobs"]
    wait_until(lambda: all(job.is_over for job in jobs.jobs()))


def lora(path: Path) -> None:
    arrays = {
        "blocks.0.att.key.lora_A": np.zeros((4, 64), np.float32),
        "blocks.0.att.key.lora_B": np.ones((64, 4), np.float32),
    }
    write_tensors(path, arrays)


def test_it_offers_what_can_be_converted(browser: Browser) -> None:
    (browser.folder / "broken.pth").write_bytes(b"x")
    lora(browser.folder / "lora.pth")
    status, page = browser.get("/convert?model=six.pth&target=fast&strategy=cpu+bf16")
    assert status == 200
    assert '<option value="six.pth" selected>' in page and "broken.pth" not in page
    assert page.count('value="lora.pth"') == 1
    assert re.search(pattern("conversion.plan", name="six.cpu-bf16.fast.pth"), page)
    assert says(page, "conversion.state_kept")


def test_a_lora_from_the_models_page_is_chosen_as_such(browser: Browser) -> None:
    lora(browser.folder / "lora.pth")
    assert '<option value="lora.pth" selected>' in browser.get("/convert?model=lora.pth")[1]


def test_the_plan_follows_the_form(browser: Browser) -> None:
    status, part = browser.part("/convert/plan?model=raw.pth&target=st")
    assert status == 200 and re.search(pattern("conversion.plan", name="raw.st"), part) and "<html" not in part
    of_gguf = browser.part("/convert/plan?model=raw.pth&target=gguf&type=q5_1&gguf_type=q4_0")[1]
    assert re.search(pattern("conversion.plan", name="raw-Q4_0.gguf"), of_gguf)
    assert "note-bad" in browser.part("/convert/plan?model=raw.pth&target=fast&strategy=cpu+fp33")[1]
    (browser.folder / "raw.st").write_bytes(b"mine")
    taken = browser.part("/convert/plan?model=raw.pth&target=st")[1]
    assert "note-warn" in taken and 'name="overwrite"' in taken


def test_a_finished_job_offers_the_next_steps(browser: Browser) -> None:
    status, page = browser.post("/convert", model="raw.pth", target="fast", strategy="cpu bf16")
    assert status == 200 and "raw.cpu-bf16.fast.pth" in page
    finish(browser)
    part = browser.part("/jobs?kind=conversion")[1]
    assert 'data-status="done"' in part and "/load" in part and "/preset" in part and "every 1s" not in part
    job = browser.app.extensions["jobs"].jobs()[0]
    browser.post(f"/convert/{job.id}/preset")
    made = [p for p in browser.app.extensions["presets"].list() if p.model == "raw.cpu-bf16.fast.pth"]
    assert [preset.strategy for preset in made] == ["cpu bf16"]
    assert "raw.cpu-bf16" not in browser.act(f"/jobs/{job.id}/remove?kind=conversion")[1]


def test_load_it_loads_it(browser: Browser) -> None:
    browser.post("/convert", model="raw.pth", target="st")
    finish(browser)
    job = browser.app.extensions["jobs"].jobs()[0]
    browser.post(f"/convert/{job.id}/load")
    assert browser.manager.wait_ready(60).model == "raw.st"


def test_a_name_that_is_taken_asks_first(browser: Browser) -> None:
    (browser.folder / "raw.st").write_bytes(b"mine")
    status, page = browser.post("/convert", model="raw.pth", target="st")
    assert status == 409 and says(page, "conversion.overwrite", name="raw.st")
    assert (browser.folder / "raw.st").read_bytes() == b"mine"
    browser.post("/convert", model="raw.pth", target="st", overwrite="1")
    finish(browser)
    assert (browser.folder / "raw.st").stat().st_size > 1000


@pytest.mark.parametrize(
    "form",
    [
        {"model": "../../etc/passwd", "target": "st"},
        {"model": "raw.pth", "target": "onnx"},
        {"model": "raw.pth", "target": "fast", "strategy": "cpu fp32 *999999999999"},
        {"model": "raw.pth", "target": "fast", "strategy": "x" * 5000},
        {"model": "raw.pth", "target": "st", "name": "///"},
        {"model": "raw.pth", "target": "st", "name": "\x00"},
        {"model": "raw.pth", "target": "st", "lora": "six.pth", "lora_alpha": "1"},
        {"model": "raw.pth", "target": "st", "lora": "six.pth", "lora_alpha": "nan"},
        {"model": "raw.pth", "target": "st", "lora": "six.pth", "lora_alpha": "1e400"},
        {"model": "<script>alert(1)</script>", "target": "st"},
    ],
    ids=str,
)
def test_a_bad_order_is_refused_with_its_reason(form: dict[str, str], browser: Browser) -> None:
    before = sorted(path.name for path in browser.folder.iterdir())
    status, page = browser.post("/convert", **form)
    assert status == 422 and "note-bad" in page and "<script>alert" not in page
    assert str(browser.folder) not in page
    assert sorted(path.name for path in browser.folder.iterdir()) == before
    assert not browser.app.extensions["jobs"].jobs()


def test_a_job_that_is_not_there_is_not_found(browser: Browser) -> None:
    for action in ("load", "preset"):
        assert browser.post(f"/convert/none/{action}")[0] == 404
    for action in ("cancel", "pause", "resume", "remove", "nonsense"):
        assert browser.post(f"/jobs/none/{action}")[0] == 404


def test_another_site_cannot_start_one(browser: Browser) -> None:
    form = {"model": "raw.pth", "target": "st"}
    evil = {"Origin": "http://evil.example"}
    answer = browser.client.post("/convert", base_url="http://127.0.0.1", headers=evil, data=form)
    assert answer.status_code == 403 and not browser.app.extensions["jobs"].jobs()


def test_the_page_speaks_chinese(browser: Browser) -> None:
    assert "转换模型" in browser.get("/convert?lang=zh")[1]
