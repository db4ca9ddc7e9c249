"""Engine options besides model and strategy: sent with a load, and reported if they need another load."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.errors import raises_code
from tests.manager.conftest import last_output, request
from tests.waiting import WaitRanOut, wait_until
from webapp.backends.fake import FakeBackend
from webapp.engine.options import ADAPTER, EngineOptions
from webapp.errors import InvalidOption, ModelNotFound, StrategyError
from webapp.manager.messages import LoadModel


def commands_of(monkeypatch) -> list[LoadModel]:
    """Every LoadModel that an engine in a thread receives from now on."""
    from tests.manager.thread_engine import ThreadEngineClient

    seen: list[LoadModel] = []
    send = ThreadEngineClient.send

    def spying_send(self, command):
        if isinstance(command, LoadModel):
            seen.append(command)
        send(self, command)

    monkeypatch.setattr(ThreadEngineClient, "send", spying_send)
    return seen


def test_options_reach_the_engine_and_zero_leaves_it_to_the_settings(make_manager, monkeypatch):
    loads = commands_of(monkeypatch)
    manager = make_manager(threads=2, prefill_chunk=32)
    manager.load()
    manager.wait_ready(60)
    manager.load(options=EngineOptions(threads=3, custom_cuda=True))
    manager.wait_ready(60)
    found = [(load.threads, load.prefill_chunk, load.custom_cuda) for load in loads]
    assert found == [(2, 32, False), (3, 32, True)]


def test_the_same_options_load_nothing_again(make_manager, starter):
    manager = make_manager(threads=2)
    manager.load()
    manager.wait_ready(60)
    for same in (EngineOptions(), EngineOptions(threads=2), EngineOptions(idle_unload_s=900)):
        manager.load(options=same)
        manager.wait_ready(60)
    assert len(starter.clients) == 1


def test_reload_reasons_name_what_differs_from_the_loaded_engine(make_manager):
    manager = make_manager(threads=2)
    assert manager.reload_reasons("wide.safetensors", "fake slots=1") == ()  # nothing is loaded
    manager.load()
    manager.wait_ready(60)
    assert manager.reload_reasons() == manager.reload_reasons("v7.safetensors", "  fake ", EngineOptions()) == ()
    assert manager.reload_reasons("wide.safetensors") == ("model",)
    assert manager.reload_reasons(strategy="fake slots=1") == ("strategy",)
    assert manager.reload_reasons(options=EngineOptions(threads=2, idle_unload_s=60)) == ()
    changed = EngineOptions(threads=4, prefill_chunk=16, custom_cuda=True, tokenizer="")
    reasons = manager.reload_reasons("v6.safetensors", "fake slots=2", changed)
    assert reasons == ("model", "strategy", "threads", "prefill_chunk", "custom_cuda")
    with pytest.raises(ModelNotFound):
        manager.reload_reasons("nowhere.pth")
    with pytest.raises(StrategyError):
        manager.reload_reasons(strategy="steam engine")


def test_a_new_idle_time_counts_without_a_reload(make_manager, starter):
    manager = make_manager()
    last_output(manager.submit(request()))
    manager.load(options=EngineOptions(idle_unload_s=0.2))
    wait_until(lambda: manager.status().phase == "empty")
    assert len(starter.clients) == 1


def test_an_idle_time_of_zero_overrides_the_settings(make_manager):
    manager = make_manager(idle_unload_s=0.2)
    manager.load(options=EngineOptions(idle_unload_s=0.0))
    manager.wait_ready(60)
    with pytest.raises(WaitRanOut):
        wait_until(lambda: manager.status().phase == "empty", timeout_s=0.6)


def test_a_tokenizer_that_was_named_has_to_be_there_and_fit(make_manager, models_dir, tmp_path):
    backwards = "".join(f"{255 - byte} {bytes([byte])!r} 1\n" for byte in range(256))
    (tmp_path / "backwards.txt").write_text(backwards, encoding="utf-8")
    shutil.copy(models_dir / "v7.safetensors", tmp_path / "v7.safetensors")
    manager = make_manager(models_dir=tmp_path)
    assert manager.tokenizer().encode("ab") == [97, 98]
    manager.load(options=EngineOptions(tokenizer="backwards.txt"))
    assert manager.wait_ready(60).phase == "ready"
    assert manager.tokenizer().encode("ab") == [158, 157]
    for wrong, error in (
        ("nowhere.txt", "file_not_found"),
        ("../x", "file_not_found"),
        ("world", "vocabulary_invalid"),
    ):
        with raises_code(error):
            manager.load(options=EngineOptions(tokenizer=wrong))
    assert manager.tokenizer().encode("ab") == [158, 157]
    assert manager.reload_reasons(options=EngineOptions()) == ("tokenizer",)


def write_lora(path, width: int = 64, seed: int = 0):
    make = np.random.default_rng(seed)
    a, b = make.normal(size=(4, width)), make.normal(size=(width, 4))
    save_file({"blocks.0.att.key.lora_A": a.astype("f4"), "blocks.0.att.key.lora_B": b.astype("f4")}, str(path))


def test_an_adapter_is_loaded_with_its_model_unless_none_is_chosen(make_manager, models_dir, tmp_path, monkeypatch):
    for name in ("v7", "v6", "wide"):
        shutil.copy(models_dir / f"{name}.safetensors", tmp_path)
    write_lora(tmp_path / "lora.safetensors")
    loads = commands_of(monkeypatch)
    manager = make_manager(models_dir=tmp_path)
    with_it = EngineOptions(adapter_file="lora.safetensors", adapter_alpha=8.0)
    manager.load(options=with_it)
    assert manager.wait_ready(60).adapter == "lora.safetensors"
    assert loads[-1].adapter["adapter_file"] == str(tmp_path / "lora.safetensors")
    assert loads[-1].adapter["adapter_alpha"] == 8.0
    manager.load()  # nothing is loaded again
    assert len(loads) == 1 and manager.reload_reasons(options=EngineOptions()) == ("adapter_file", "adapter_alpha")
    for wrong, code in ((("lora.safetensors", 0.0), "conversion_refused"), (("gone.pth", 8.0), "model_not_found")):
        with raises_code(code):
            manager.load(options=EngineOptions().with_adapter(*wrong))
    with raises_code("lora_mismatch"):
        manager.load("wide.safetensors", options=with_it)
    assert manager.status().adapter == "lora.safetensors"
    write_lora(tmp_path / "lora.safetensors", seed=1)
    assert manager.reload_reasons() == ("adapter_file",)
    manager.load("wide.safetensors")  # another model does not keep the adapter
    assert manager.wait_ready(60).adapter == ""
    manager.load("v7.safetensors", options=with_it)
    manager.load(options=EngineOptions())
    assert manager.wait_ready(60).adapter == "" and loads[-1].adapter["adapter_file"] == ""


def test_an_engine_without_adapters_refuses_one(make_manager, models_dir, tmp_path, monkeypatch):
    shutil.copy(models_dir / "v7.safetensors", tmp_path)
    write_lora(tmp_path / "lora.safetensors")
    monkeypatch.setattr(FakeBackend, "OPTIONS", FakeBackend.OPTIONS[: -len(ADAPTER)])
    with pytest.raises(StrategyError):
        make_manager(models_dir=tmp_path).load(options=EngineOptions().with_adapter("lora.safetensors", 8.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": -1},
        {"threads": 1.5},
        {"threads": True},
        {"prefill_chunk": 10**9},
        {"idle_unload_s": float("nan")},
        {"idle_unload_s": -1},
        {"idle_unload_s": "soon"},
        {"custom_cuda": 1},
        {"tokenizer": None},
        {"adapter_file": None},
        {"adapter_alpha": -1},
        {"adapter_alpha": "much"},
    ],
)
def test_options_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InvalidOption) as caught:
        EngineOptions(**wrong)
    assert caught.value.params["name"] in wrong
