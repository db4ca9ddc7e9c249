"""Products with int8 matrices on a CPU: the same values as the package, with much less memory and time."""

from __future__ import annotations

import pytest
import torch

from webapp.backends.rwkv_pip import model_loader
from webapp.backends.rwkv_pip.layout import quantize


def int8_matrix(n_in: int, n_out: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """``(w, mx, rx, my, ry)`` as in the package."""
    rows = torch.randn((n_out, n_in), generator=torch.Generator().manual_seed(n_in)) / n_in**0.5
    made = quantize(lambda: [(0, rows)], n_in, n_out)
    return made.data, *(t.to(dtype) for t in (made.mx, made.rx / 16, made.my[:, None], made.ry[:, None] / 16))


def by_package(x: torch.Tensor, w: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
    """``torch_mm8_one`` of rwkv 0.8.32, in float64."""
    mx, rx, my, ry = (scale.double() for scale in scales)
    return x.double() @ ((w.double() + 0.5) * ry * rx + my + mx)


@pytest.mark.parametrize("block_weights", (2**20, 100))
@pytest.mark.parametrize("shape", [(64, 64), (96, 40), (40, 96)])
@pytest.mark.parametrize("tokens", (None, 1, 5))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_it_is_the_packages_product(
    block_weights: int, shape: tuple[int, int], tokens: int | None, dtype: torch.dtype, tolerance: float, monkeypatch
) -> None:
    monkeypatch.setattr(model_loader, "BLOCK_WEIGHTS", block_weights)
    x = torch.randn((shape[0],) if tokens is None else (tokens, shape[0]), generator=torch.Generator().manual_seed(1))
    matrix = int8_matrix(*shape, dtype)
    found = model_loader.int8_product(x.to(dtype), *matrix)
    expected = by_package(x.to(dtype), *matrix)
    assert found.dtype == dtype and found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= tolerance
