"""The origin of a state, how it is written, and blends of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.errors import raises_code
from tests.weights.make_checkpoints import write_state
from webapp.weights.state_file import StateFile, blend_states, open_state, state_digest
from webapp.weights.state_sheet import Origin, origin_of, write_state_file


@pytest.mark.parametrize(
    "name, version",
    [
        ("rwkv-x060-chn_single_round_qa-3B-20240505-ctx1024.pth", "6"),
        ("RWKV-x070-World-1.5B-poet.pth", "7"),
        ("rwkv7-g1-0.4b-calm.st", "7"),
        ("RWKV-6-World-7B-mine.pth", "6"),
        ("my_rwkv_v5_state.pth", "5"),
        ("x052-story.pth", "5"),
        ("poet-v6.pth", ""),  # perhaps the sixth attempt
        ("rwkv-x060-for-rwkv7.pth", ""),  # contains both versions
        ("rwkv-70m.pth", ""),
        ("box0601.pth", ""),
        ("poet.pth", ""),
    ],
)
def test_an_official_name_tells_the_version(name, version):
    assert origin_of(Path(name), {}) == (Origin(version, "name") if version else Origin())


def test_what_a_file_says_counts_before_its_name():
    assert origin_of(Path("rwkv-x060.st"), {"roost.architecture": "7"}) == Origin("7", "metadata")
    assert origin_of(Path("poet.st"), {"roost.architecture": "seven"}) == Origin()


def test_what_is_written_is_read_back_to_the_last_bit(tmp_path):
    layers = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    write_state_file(tmp_path / "deep" / "s.safetensors", layers, "6", "for a test")
    found = open_state(tmp_path / "deep" / "s.safetensors")
    np.testing.assert_array_equal(found.layers, layers)
    assert found.digest == state_digest(layers) and found.origin == Origin("6", "metadata")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["s.safetensors"]
    with pytest.raises(FileExistsError):
        write_state_file(tmp_path / "deep" / "s.safetensors", layers)


def test_norms_are_lengths(tmp_path):
    layers = np.zeros((2, 1, 4, 4), np.float32)
    layers[1, 0, 0, :2] = (3, 4)
    assert StateFile("s", layers, "").norms() == [0.0, 5.0]


def made(tmp_path, seed, n_head=2, architecture=""):
    write_state(tmp_path / f"{seed}.pth", 2, n_head, 8, seed=seed)
    found = open_state(tmp_path / f"{seed}.pth")
    origin = Origin(architecture, "metadata") if architecture else Origin()
    return StateFile(found.name, found.layers, found.digest, origin)


def test_a_blend_is_the_weighted_mean(tmp_path):
    one, two = made(tmp_path, 1, architecture="7"), made(tmp_path, 2)
    layers, architecture = blend_states([(one, 1.0), (two, 3.0)])
    np.testing.assert_allclose(layers, 0.25 * one.layers + 0.75 * two.layers, atol=1e-7)
    assert architecture == "7" and layers.dtype == np.float32
    half, _ = blend_states([(one, 2.0), (None, 2.0)])
    np.testing.assert_allclose(half, one.layers / 2, atol=1e-7)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_weights_that_make_no_mean_are_refused(tmp_path, weights):
    states = (made(tmp_path, 1), made(tmp_path, 2))
    with raises_code("blend_invalid"):
        blend_states(list(zip(states, weights, strict=True)))


def test_states_that_do_not_go_together_are_refused(tmp_path):
    one = made(tmp_path, 1, architecture="7")
    with raises_code("state_mismatch", key="states.mismatch.sizes", found="2 x 4 x 8"):
        blend_states([(one, 1.0), (made(tmp_path, 2, n_head=4), 1.0)])
    with raises_code("state_mismatch", key="states.mismatch.architecture", found="RWKV-6"):
        blend_states([(one, 1.0), (made(tmp_path, 3, architecture="6"), 1.0)])
    for parts in ([(one, 1.0)], [(None, 1.0), (None, 1.0)], [(one, 1.0)] * 17):
        with raises_code("blend_invalid"):
            blend_states(parts)
