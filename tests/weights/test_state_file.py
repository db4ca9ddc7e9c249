"""read_state_file(): a state that fits is read exactly; others are refused with expected and found values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.errors import raises_code
from tests.weights.make_checkpoints import make_time_state, write_checkpoint, write_state, write_tensors
from webapp.engine.state import ModelConfig
from webapp.weights.state_file import read_state_file, state_digest

CONFIG = ModelConfig("7", n_layer=3, n_embd=32, n_att=32, n_ffn=128, n_head=2, head_size=16, vocab_size=256)
SIZES = {"n_layer": 3, "n_head": 2, "head_size": 16}


def layer_name(layer):
    return f"blocks.{layer}.att.time_state"


@pytest.mark.parametrize("ending", ["pth", "safetensors", "st"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_and_orientation_are_those_of_the_file(tmp_path, ending, dtype):
    path = tmp_path / f"poet.{ending}"
    written = write_state(path, **SIZES, dtype=dtype)
    state = read_state_file(path, CONFIG)
    assert (state.name, state.layers.shape, state.layers.dtype) == ("poet", (3, 2, 16, 16), np.float32)
    for layer in range(3):
        np.testing.assert_array_equal(state.layers[layer], written[layer_name(layer)])
    assert state.digest == state_digest(state.layers)


def test_dot_state_may_be_either_format(tmp_path):
    for ending in ("pth", "safetensors"):
        write_state(tmp_path / f"s.{ending}", **SIZES)
        (tmp_path / f"s.{ending}").rename(tmp_path / "s.state")
        assert read_state_file(tmp_path / "s.state", CONFIG).layers.shape == (3, 2, 16, 16)


def test_layers_are_ordered_by_number_not_by_place_in_the_file(tmp_path):
    config = ModelConfig("7", 12, 32, 32, 128, 2, 16, 256)
    arrays = make_time_state(12, 2, 16)
    write_tensors(tmp_path / "s.pth", dict(sorted(arrays.items(), reverse=True)))
    layers = read_state_file(tmp_path / "s.pth", config).layers
    np.testing.assert_array_equal(layers[10], arrays[layer_name(10)])


def test_equal_states_have_equal_digests(tmp_path):
    write_state(tmp_path / "a.pth", **SIZES)
    write_state(tmp_path / "b.st", **SIZES)
    write_state(tmp_path / "c.pth", **SIZES, seed=1)
    digests = [read_state_file(tmp_path / name, CONFIG).digest for name in ("a.pth", "b.st", "c.pth")]
    assert digests[0] == digests[1] != digests[2]


def changed(**changes):
    arrays = make_time_state(3, 2, 16)
    for layer, array in changes.items():
        arrays[layer_name(int(layer[1:]))] = array
    return arrays


def with_value(value):
    array = make_time_state(3, 2, 16)[layer_name(1)].copy()
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize(
    "arrays, expected, found",
    [
        (make_time_state(2, 2, 16), "3", "2"),
        (make_time_state(4, 2, 16), "3", "4"),
        (make_time_state(3, 4, 16), "2 x 16 x 16", "4 x 16 x 16"),
        (make_time_state(3, 2, 8), "2 x 16 x 16", "2 x 8 x 8"),
        (changed(l2=np.zeros((2, 16, 8), np.float32)), "2 x 16 x 16", "2 x 16 x 8"),
        (changed(l1=np.zeros((512,), np.float32)), "2 x 16 x 16", "512"),
        (changed(l1=with_value(np.nan)), "a finite number", "in 1 places"),
        (changed(l1=with_value(np.inf)), "a finite number", "in 1 places"),
        (
            {name.replace(".2.", ".3."): a for name, a in make_time_state(3, 2, 16).items()},
            layer_name(2),
            layer_name(3),
        ),
        ({name.replace("att.", "attn."): a for name, a in make_time_state(3, 2, 16).items()}, "nothing else", "attn"),
        (make_time_state(3, 2, 16) | {"head.weight": np.zeros(3, np.float32)}, "nothing else", "head.weight"),
        ({"blocks.0.att.key.lora_A": np.zeros((4, 4), np.float32)}, "nothing else", "a LoRA"),
        ({}, "nothing else", "without any tensors"),
    ],
)
@pytest.mark.parametrize("ending", ["pth", "st"])
def test_what_does_not_fit_is_refused_with_expected_and_found(tmp_path, ending, arrays, expected, found):
    write_tensors(tmp_path / f"s.{ending}", arrays)
    with raises_code("state_mismatch") as caught:
        read_state_file(tmp_path / f"s.{ending}", CONFIG)
    assert expected in str(caught.value.params["expected"])
    assert found in str(caught.value.params["found"])


def test_whole_numbers_are_refused(tmp_path):
    write_state(tmp_path / "s.pth", **SIZES, dtype="int32")
    with raises_code("state_mismatch", key="states.mismatch.floating", found="int32"):
        read_state_file(tmp_path / "s.pth", CONFIG)


def test_a_double_too_large_for_float32_is_refused(tmp_path):
    arrays = {name: a.astype(np.float64) for name, a in make_time_state(3, 2, 16).items()}
    arrays[layer_name(0)][0, 0, 0] = 1e300
    write_tensors(tmp_path / "s.pth", arrays, "float64")
    with raises_code("state_mismatch", key="states.mismatch.not_finite", places=1):
        read_state_file(tmp_path / "s.pth", CONFIG)


def test_a_model_is_no_state_even_with_a_state_in_it(tmp_path):
    write_checkpoint(tmp_path / "m.pth", "7", n_layer=3, n_embd=32, head_size=16, time_state=True)
    with raises_code("state_mismatch", key="states.mismatch.kind_model"):
        read_state_file(tmp_path / "m.pth", CONFIG)


def test_rwkv4_takes_no_state(tmp_path):
    write_state(tmp_path / "s.pth", **SIZES)
    with raises_code("state_mismatch", key="states.mismatch.no_states_in_4"):
        read_state_file(tmp_path / "s.pth", ModelConfig("4", 3, 32, 32, 128, 0, 0, 256))


def test_a_torn_state_is_torn(tmp_path):
    write_state(tmp_path / "s.pth", **SIZES)
    data = (tmp_path / "s.pth").read_bytes()
    (tmp_path / "s.pth").write_bytes(data[: len(data) // 2])
    with raises_code("file_truncated"):
        read_state_file(tmp_path / "s.pth", CONFIG)
