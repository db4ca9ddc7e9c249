"""If requests choose their model, each is answered by its model, and no answer is ended for another request."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.errors import raises_code
from tests.waiting import PATIENCE_S, wait_until
from tests.web.api.api_server import ANSWER, MODEL
from tests.web.chat.running_roost import models_dir
from webapp.web.api.calls import ModelTurns

CHAT = "/v1/chat/completions"
OTHER = "二号 model's.safetensors"


def hello(model, **options):
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **options}


@pytest.fixture
def two_models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for name in (MODEL, OTHER):
        shutil.copy(models_dir() / MODEL, folder / name)
    return folder


def test_requests_for_two_models_at_once_are_all_answered(serve, two_models):
    """Without a grace period, an answer that runs during a change of models would be lost."""
    server = serve(api_switch_models=True, models_dir=two_models, swap_grace_s=0, options={"delay_ms": 2})
    asked = [MODEL, OTHER.removesuffix(".safetensors")] * 4
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda name: server.post(CHAT, hello(name)), asked))
    assert [status for status, _ in found] == [200] * len(asked), found
    assert [body["model"] for _, body in found] == [MODEL, OTHER] * 4
    assert {body["choices"][0]["message"]["content"] for _, body in found} == {ANSWER}
    assert server.post(CHAT, hello("gpt-4o"))[1]["model"] in (MODEL, OTHER)
    assert {model["id"] for model in server.get("/v1/models")[1]["data"]} >= {MODEL, OTHER}


def test_a_stream_gives_its_turn_back_and_counting_does_not_wait_for_it(serve, two_models):
    options = {"repeat": 0, "delay_ms": 5}
    server = serve(api_switch_models=True, models_dir=two_models, options=options)
    stream = server.openai().chat.completions.create(**hello(MODEL, stream=True, max_tokens=100_000))
    next(iter(stream))
    assert server.post("/v1/tokenize", {"text": "a", "model": MODEL})[0] == 200
    status, found = server.post("/v1/tokenize", {"text": "a", "model": OTHER})
    assert (status, found["error"]["code"]) == (503, "server_busy")
    stream.close()
    assert server.post(CHAT, hello(OTHER, max_tokens=3))[1]["model"] == OTHER


def test_a_model_that_is_not_served_is_named_unless_requests_may_choose(serve, two_models):
    server = serve(models_dir=two_models, model=MODEL)
    status, found = server.post(CHAT, hello(OTHER))
    assert (status, found["error"]["code"], found["error"]["param"]) == (404, "model_not_served", "model")
    assert server.post("/api/generate", {"model": OTHER, "keep_alive": 0})[1]["done_reason"] == "unload"
    assert server.post(CHAT, hello(MODEL))[1]["model"] == MODEL


def wait():
    time.sleep(0.01)


def test_the_longest_waiting_is_next():
    turns, order, begun = ModelTurns(), [], []
    turns.enter("a", wait)

    def come(model):
        turns.enter(model, lambda: None)
        order.append(model)
        turns.leave()

    for model in ("b", "a", "c"):  # "a" must not overtake "b", although a's model is loaded
        begun.append(threading.Thread(target=come, args=(model,), daemon=True))
        begun[-1].start()
        wait_until(lambda: len(turns._waiting) == len(begun))
    assert order == []
    turns.leave()
    for thread in begun:
        thread.join(PATIENCE_S)
    assert order == ["b", "a", "c"]


def test_a_request_that_gives_up_waiting_frees_its_place():
    turns = ModelTurns()
    turns.enter("a", wait)

    def give_up():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        turns.enter("b", give_up)
    turns.enter("a", give_up)
    with raises_code("server_busy"):
        turns.enter_at_once("b")
    turns.leave()
    turns.leave()
    turns.enter_at_once("b")


def test_a_model_is_known_by_the_name_the_library_prints(serve, tmp_path):
    """In a subfolder of the models folder, and next to another one with the same base name."""
    folder = tmp_path / "models"
    for name in ("r1", "r2"):
        (folder / name).mkdir(parents=True)
        shutil.copy(models_dir() / MODEL, folder / name / MODEL)
    server = serve(models_dir=folder, model=f"r2/{MODEL}", api_switch_models=True)
    for asked in (f"r2/{MODEL}", f"r2/{MODEL}".removesuffix(".safetensors"), "gpt-4o", MODEL):
        status, found = server.post(CHAT, hello(asked, max_tokens=1))
        assert (status, found["model"]) == (200, f"r2/{MODEL}"), asked
    assert server.get(f"/v1/models/r2/{MODEL}")[1]["id"] == f"r2/{MODEL}"
    assert server.post(CHAT, hello(f"r1/{MODEL}", max_tokens=1))[1]["model"] == f"r1/{MODEL}"
    loaded = [model["id"] for model in server.get("/v1/models")[1]["data"] if model["loaded"]]
    assert loaded == [f"r1/{MODEL}"]
