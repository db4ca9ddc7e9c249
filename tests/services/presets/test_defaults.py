import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.services.scripted_manager import ScriptedManager
from webapp.engine.state import ModelConfig
from webapp.services.presets.presets import (
    MODES,
    PLAIN,
    THINK,
    TOOLS,
    Presets,
    default_sampling,
    mode_of,
    published_sampling,
)
from webapp.weights.inspection import Inspection


def test_chat_defaults_are_those_of_rwkv_runner(settings):
    params = default_sampling(settings)
    assert (params.temperature, params.top_p, params.presence_penalty) == (1.0, 0.3, 0.0)
    assert (params.frequency_penalty, params.penalty_decay) == (1.0, 0.996)


def model(name: str, folder="/models", parameters: int = 1_500_000_000) -> Inspection:
    config = ModelConfig("7", 24, 2048, 2048, 8192, 32, 64, 65536)
    facts = {"format": "pth", "kind": "model", "dtype": "bf16", "size_bytes": 1, "naming": "official"}
    facts |= {"has_time_state": False, "converted_strategy": None, "converted_version": None, "tokenizer": "world"}
    path = str(Path(folder) / name)
    return Inspection(path=path, config=config, parameters=parameters, reason="", metadata={}, tensors=(), **facts)


def test_a_tiny_model_is_not_pushed_off_the_few_words_it_knows(settings):
    assert default_sampling(settings, model("tiny.pth", parameters=20_000_000)).frequency_penalty == 0.2


@pytest.fixture
def presets(world, database, settings):
    return Presets(ScriptedManager(world), database, settings)


def test_a_chats_overrides_win_within_the_servers_limits(presets, settings):
    params = presets.sampling(presets.active(), {"temperature": 0.0, "max_tokens": 102_400})
    assert params.temperature == 0.0
    assert params.max_tokens == min(102_400, settings.max_tokens_limit)


def test_an_unknown_override_is_refused(presets):
    with raises_code("sampling_invalid"):
        presets.sampling(presets.active(), {"temprature": 1})


G1K = "rwkv7-g1k-2.9b-20260930-ctx25600.pth"


def test_each_mode_of_a_current_model_has_the_sampling_it_was_published_with(settings):
    plain, think, tools = (default_sampling(settings, model(G1K), mode) for mode in MODES)
    assert (plain.temperature, plain.top_p, plain.top_k, plain.presence_penalty) == (1.0, 0.28, 32, 0.0)
    assert (think.temperature, think.top_p, think.top_k) == (0.96, 0.76, 32)
    assert (think.presence_penalty, think.frequency_penalty, think.penalty_decay) == (1.0, 0.1, 0.988)
    assert (tools.temperature, tools.top_p, tools.presence_penalty, tools.frequency_penalty) == (0.96, 0.76, 0.0, 0.0)


def test_an_older_model_keeps_the_defaults_of_rwkv_runner(settings):
    for name in ("rwkv7-g1d-0.4b-20260210-ctx8192.pth", "RWKV-x060-World-3B-v2.1-20240417-ctx4096.pth"):
        assert default_sampling(settings, model(name), THINK) == default_sampling(settings)
        assert set(published_sampling(model(name)).origins.values()) == {"runner"}


def test_only_what_differs_for_a_tiny_model_is_said_to_be_for_one():
    origins = published_sampling(model("tiny.pth", parameters=20_000_000)).origins
    assert (origins["frequency_penalty"], origins["temperature"]) == ("tiny", "runner")


def test_tools_come_before_thinking():
    assert [mode_of("none", False), mode_of("fast", False), mode_of("think_a_lot", False)] == [PLAIN, PLAIN, THINK]
    assert mode_of("think", True) == TOOLS


def test_a_folders_own_values_come_first_and_bad_ones_are_passed_over(tmp_path):
    folder = tmp_path / "RWKV7-G1k-1.5B-20260930"
    folder.mkdir()
    config = {
        "temperature": 0.7,
        "top_p": 7,
        "alpha_decay": 0.99,
        "do_sample": True,
        "top_k": True,
        "tools": {"top_p": 0.5},
    }
    (folder / "generation_config.json").write_text(json.dumps(config))
    found = published_sampling(model(folder.name, tmp_path), TOOLS)
    assert (found.values["temperature"], found.values["top_p"], found.values["penalty_decay"]) == (0.7, 0.5, 0.99)
    assert (found.origins["temperature"], found.origins["top_k"]) == ("folder", "g1h")
    (folder / "generation_config.json").write_text("[" * 100_000)
    assert "folder" not in published_sampling(model(folder.name, tmp_path)).origins.values()


def test_a_presets_own_value_comes_before_the_publishers(presets, settings):
    made = presets.create("mine", {"top_p": 0.9})
    params = presets.sampling(made, {}, model(G1K), THINK)
    assert (params.top_p, params.top_k) == (0.9, 32)


@pytest.mark.parametrize("tokenizer, name", [("midi", "RWKV-4-MIDI-120M-v1.pth"), ("abc", "RWKV-5-ABC-82M-v1.pth")])
def test_a_music_model_is_sampled_as_its_author_does(settings, tokenizer, name):
    """ChatRWKV, music/run.py; the rest is tested in tests/engine/test_sampler.py."""
    info = replace(model(name, parameters=82_000_000), kind="music", tokenizer=tokenizer)
    params = default_sampling(settings, info)
    assert (params.temperature, params.top_k, params.top_p) == (1.0, 8, 0.8)
    assert params.presence_penalty == 0
    if tokenizer == "abc":
        assert (params.frequency_penalty, params.stop_token_ids, params.rising_bias) == (0, (0, 3), ())
    else:
        assert (params.frequency_penalty, params.penalty_decay, params.stop_token_ids) == (0.5, 0.997, (0,))
        assert (params.logit_bias, params.count_weights) == ({127: -1.0}, ((0, 127, 0.3),))
        assert params.rising_bias == ((0, -4.0, 0.002),)
    assert set(published_sampling(info).origins.values()) == {"music"}
