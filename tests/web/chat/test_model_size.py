"""A model's size has the same form everywhere."""

import pytest

from tests.web.chat.running_roost import RunningRoost, fake_strategy
from tests.weights.make_checkpoints import make_tensors, write_tensors
from webapp.web.kit.page import number_text

STARTER = "roost-starter-v7.safetensors"


@pytest.fixture(scope="module")
def roost(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tensors = make_tensors("7", n_layer=1, n_embd=64, vocab_size=65536)
    write_tensors(folder / STARTER, tensors, "bfloat16", metadata={"roost.trained_parameters": "6300672"})
    roost = RunningRoost(tmp_path_factory.mktemp("data"), fake_strategy(), models_dir=folder)
    yield roost
    roost.stop()


WORDS = {"en": "8.46M parameters (6.3M of them trained)", "zh": "8.46M 参数（其中 6.3M 经过训练）"}


@pytest.mark.parametrize(("locale", "words"), WORDS.items())
def test_the_starters_size_is_the_same_everywhere(roost, locale, words):
    for path in ("/", "/models", "/status/menu"):
        assert words in roost.get(f"{path}?lang={locale}"), path


def test_sizes_are_written_as_models_are_named():
    counts = (28_211_328, 191_000_000, 1_530_000_000, 12)
    assert [number_text(count) for count in counts] == ["28.2M", "191M", "1.53B", "12"]
