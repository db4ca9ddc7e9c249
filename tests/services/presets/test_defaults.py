import pytest

from tests.errors import raises_code
from tests.services.scripted_manager import ScriptedManager
from webapp.services.presets.presets import Presets, default_sampling


def test_chat_defaults_are_those_of_rwkv_runner(settings):
    params = default_sampling(settings)
    assert (params.temperature, params.top_p, params.presence_penalty) == (1.0, 0.3, 0.0)
    assert (params.frequency_penalty, params.penalty_decay) == (1.0, 0.996)


def test_a_tiny_model_is_not_pushed_off_the_few_words_it_knows(settings):
    assert default_sampling(settings, parameters=20_000_000).frequency_penalty == 0.2


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
