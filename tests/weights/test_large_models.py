"""The models for speed measurements have the requested sparsity."""

from __future__ import annotations

import numpy as np
import pytest

from tests.weights.large_models import impose_zeros
from tests.weights.make_checkpoints import make_tensors


@pytest.mark.parametrize("zeros", [0.5, 0.9])
def test_so_many_hidden_units_are_zero_as_were_asked_for(zeros):
    arrays = make_tensors("7", 1, 128, 64, 64)
    impose_zeros(arrays, "blocks.0.", zeros)
    x = np.random.default_rng(0).standard_normal((500, 128)).astype(np.float32)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    hidden = (x * arrays["blocks.0.ln2.weight"] + arrays["blocks.0.ln2.bias"]) @ arrays["blocks.0.ffn.key.weight"].T
    assert abs(float((hidden <= 0).mean()) - zeros) < 0.03
