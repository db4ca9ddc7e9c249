"""First use in a browser: the best model is offered, downloaded from a local hub, loaded, and used for a chat."""

import hashlib
import json
import threading

import pytest

from tests.browser.acting import ask, expect, until, wait_ready
from tests.services.downloads.hub_server import HubServer
from tests.web.chat.running_roost import RunningRoost, fake_strategy
from tests.weights.make_checkpoints import write_checkpoint
from webapp.services.downloads import catalogue

NAME = "rwkv7-g1k-tiny-20260930-ctx25600.pth"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The catalogue lists its only model; it sends half of it, and the rest when the test allows it."""
    write_checkpoint(tmp_path / NAME, "7", n_layer=1, n_embd=64, vocab_size=65536)
    content = (tmp_path / NAME).read_bytes()
    row = {
        **json.loads(catalogue.DATA.read_text(encoding="utf-8"))[2],
        **{"file": NAME, "size_bytes": len(content), "size_is_exact": True, "layers": 1, "width": 64},
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (tmp_path / "catalogue.json").write_text(json.dumps([row]))
    monkeypatch.setattr(catalogue, "DATA", tmp_path / "catalogue.json")
    catalogue._shipped.cache_clear()
    hub = HubServer({NAME: content})
    hub.rest = threading.Event()

    def in_halves(handler):
        hub.send(handler, headers={"Content-Length": str(len(content))}, cut=len(content) // 2)
        handler.wfile.flush()
        hub.rest.wait(60)
        handler.wfile.write(content[len(content) // 2 :])

    hub.behaviours = [in_halves]
    yield hub
    hub.rest.set()
    hub.close()
    monkeypatch.undo()
    catalogue._shipped.cache_clear()


@pytest.fixture
def roost(tmp_path, hub):
    from tests.web.chat.running_roost import models_dir

    (tmp_path / "models").mkdir()
    starter = next(models_dir().iterdir())
    (tmp_path / "models" / starter.name).write_bytes(starter.read_bytes())
    roost = RunningRoost(
        tmp_path / "data", fake_strategy("Hello from the new one."), models_dir=tmp_path / "models", hub_url=hub.url
    )
    yield roost
    roost.stop()


def test_first_run_download_use_and_chat(roost, hub, visit):
    page = visit(f"{roost.url}/")
    wait_ready(page)
    offer = page.locator(".welcome-offer")
    expect(offer).to_contain_text(NAME)
    expect(offer).to_contain_text(hub.url.removeprefix("http://"))
    assert hub.requests == []
    offer.get_by_role("button").click()
    job = page.locator(".job[data-status=running]")
    job.get_by_role("button", name="Pause").wait_for()
    page.locator("#strip-jobs progress").wait_for()
    until(page, "document.querySelector('.job progress')?.value > 40")
    page.goto(f"{roost.url}/presets")
    page.locator("#strip-jobs progress").wait_for()
    page.locator("#strip-jobs").click()
    page.wait_for_url("**/jobs")
    hub.rest.set()
    done = page.locator(".job[data-status=done]")
    done.wait_for()
    done.get_by_role("button", name="Use it").click()
    page.wait_for_url(f"{roost.url}/")
    wait_ready(page)
    page.locator(".strip-model", has_text=NAME).wait_for()
    ask(page, "Hello?")
    expect(page, ".answer:last-child").to_contain_text("Hello from the new one.")


def test_paused_and_gone_on_in_the_list(roost, hub, visit):
    page = visit(f"{roost.url}/models")
    page.locator(f"[data-model='{NAME}']").get_by_role("button").click()
    page.locator(".job[data-status=running]").get_by_role("button", name="Pause").click()
    paused = page.locator(".job[data-status=paused]")
    paused.wait_for()
    hub.rest.set()
    paused.get_by_role("button", name="Resume").click()
    page.locator(".job[data-status=done]").wait_for()
