"""Strength, difference and angle of states, in each layer and head, for every version's arrays."""

from __future__ import annotations

import numpy as np
import pytest

from webapp.engine.state import ModelConfig, RecurrentState
from webapp.weights.state_sheet import measure


def state(architecture: str, seed: int = 0, width: int = 128) -> RecurrentState:
    heads = (0, 0) if architecture == "4" else (width // 32, 32)
    config = ModelConfig(architecture, 3, width, width, width, *heads, vocab_size=64)
    random = np.random.default_rng(seed)
    arrays = {
        name: random.normal(size=array.shape).astype(np.float32)
        for name, array in RecurrentState.zeros(config).arrays.items()
    }
    if architecture == "4":
        arrays["att_bb"] = np.abs(arrays["att_bb"]) + 1
    return RecurrentState(architecture, arrays)


@pytest.mark.parametrize(("architecture", "columns"), [("4", 2), ("5.0", 4), ("5.2", 4), ("6", 4), ("7", 4)])
def test_a_row_is_a_layer_and_a_column_a_head_or_64_channels(architecture, columns):
    found = measure(state(architecture).arrays)
    assert len(found.norms) == 3 and {len(row) for row in found.norms} == {columns}
    assert found.norm == pytest.approx(np.sqrt(np.square(found.norms).sum()))
    assert (found.differences, found.layer_cosines, found.cosine) == ((), (), None)


def test_the_figures_are_those_of_the_matrices():
    first, second = state("7").arrays, state("7", 1).arrays
    found = measure(first, second)
    mine, theirs = (arrays["att_kv"].astype(np.float64)[1, 2].ravel() for arrays in (first, second))
    assert found.norms[1][2] == pytest.approx(np.linalg.norm(mine))
    assert found.differences[1][2] == pytest.approx(np.linalg.norm(mine - theirs))
    mine, theirs = (arrays["att_kv"].astype(np.float64)[1].ravel() for arrays in (first, second))
    assert found.layer_cosines[1] == pytest.approx(mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs))
    whole = [arrays["att_kv"].astype(np.float64).ravel() for arrays in (first, second)]
    assert found.cosine == pytest.approx(whole[0] @ whole[1] / np.linalg.norm(whole[0]) / np.linalg.norm(whole[1]))
    assert found.difference == pytest.approx(np.linalg.norm(whole[0] - whole[1]))


def test_of_a_state_and_itself_nothing_differs_and_its_opposite_points_away():
    arrays = state("6").arrays
    same, turned = measure(arrays, arrays), measure(arrays, {"att_kv": -arrays["att_kv"]})
    assert same.difference == 0 and same.cosine == pytest.approx(1.0)
    assert turned.cosine == pytest.approx(-1.0) and turned.difference == pytest.approx(2 * turned.norm)


def test_against_nothing_there_is_no_angle():
    arrays = state("7").arrays
    found = measure(arrays, {"att_kv": np.zeros_like(arrays["att_kv"])})
    assert found.cosine is None and set(found.layer_cosines) == {None} and found.difference == pytest.approx(found.norm)


def test_the_scale_of_version_4_does_not_count():
    """Its sums are relative to a running maximum: the same memory may be written with any maximum."""
    arrays = state("4").arrays
    scaled = {**arrays, "att_aa": arrays["att_aa"] * 8, "att_bb": arrays["att_bb"] * 8}
    assert measure(arrays, scaled).difference == 0


def test_a_state_of_another_shape_is_refused():
    with pytest.raises(ValueError):
        measure(state("7").arrays, state("7", width=64).arrays)


def test_a_large_state_is_looked_at_a_layer_at_a_time():
    """61 layers of 64 heads of 64, as in the largest model (64 MB): the copies in float64 are of one layer."""
    import tracemalloc

    large = {"att_kv": np.ones((61, 64, 64, 64), np.float32)}
    tracemalloc.start()
    found = measure(large, large)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.norms) == 61 and most < 32 << 20
