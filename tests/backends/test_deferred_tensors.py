"""What the package makes of stand-ins is, to the last bit, what it makes of the tensors themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.weights.make_checkpoints import write_checkpoint
from webapp.backends.rwkv_pip import deferred_weights, model_loader, package
from webapp.backends.rwkv_pip.deferred_embedding import EmbeddingRows
from webapp.errors import LoadCancelled
from webapp.weights.checkpoint import inspect, open_checkpoint
from webapp.weights.int8_matrix import quantize


def kept(model) -> dict[str, torch.Tensor]:
    return model.z if hasattr(model, "z") else model.w


def by_package(path: Path, strategy: str) -> dict[str, torch.Tensor]:
    """The package alone, given whole tensors; the embedding and its norm widened, as Roost has it before RWKV-7."""
    config = inspect(path).config
    module = package.import_package(model_loader.switches(config, strategy, is_music=False))
    weights = torch.load(path, weights_only=True)
    if config.major < 7:
        for name in ("emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias"):
            weights[name] = weights[name].float()
    with package.torch_load_returns("raw.pth", weights):
        return kept(module.RWKV("raw", strategy))


@pytest.mark.parametrize("small_pieces", (False, True))
@pytest.mark.parametrize(
    ("architecture", "strategy"),
    [
        *((architecture, "cpu fp32i8") for architecture in ("4", "5.0", "5.1", "5.2", "6")),
        ("6", "cpu fp16i8 -> cpu fp32 *1"),
        *((architecture, "cpu fp16") for architecture in ("4", "5.2", "6", "7")),
        ("6", "cpu bf16"),
        ("7", "cpu bf16"),
        ("7", "cpu fp32"),
        ("6", "cpu fp32 *2 -> cpu bf16"),
    ],
)
def test_every_tensor_is_the_packages_own(
    architecture: str, strategy: str, small_pieces: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pth"
    write_checkpoint(path, architecture, n_layer=7)
    if small_pieces:
        monkeypatch.setattr(deferred_weights, "PIECE_BYTES", 1000)
        monkeypatch.setattr(deferred_weights, "HELD_BYTES", 5000)
    expected = by_package(path, strategy)
    loaded = model_loader.load_model(str(path), inspect(path).config, strategy, lambda progress: None)
    found = kept(loaded.model)
    assert set(found) == set(expected)
    if isinstance(found["emb.weight"], EmbeddingRows):
        found["emb.weight"] = found["emb.weight"][list(range(len(expected["emb.weight"])))]
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16), (1, 30), (30, 1)])
def test_int8_in_pieces_comes_near_the_matrix(shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    whole = quantize(lambda: [(0, rows)], *shape[::-1])
    pieces = quantize(lambda: ((start, rows[start : start + 3]) for start in range(0, shape[0], 3)), *shape[::-1])
    for name in ("data", "mx", "rx", "my", "ry"):
        assert torch.equal(getattr(whole, name).nan_to_num(), getattr(pieces, name).nan_to_num()), name
    if min(shape) > 1:  # a single row or column is all minimum: the package divides nothing by nothing
        restored = (whole.data + 0.5) / 256 * whole.ry[:, None] * whole.rx + whole.my[:, None] + whole.mx
        assert (restored.t() - rows).abs().max() <= 1 / 256 * (whole.ry.max() * whole.rx.max())


def test_pages_that_were_let_go_come_back_from_the_file(tmp_path: Path) -> None:
    arrays = write_checkpoint(tmp_path / "model.pth", "6")
    with open_checkpoint(tmp_path / "model.pth") as checkpoint:
        before = checkpoint.tensor("emb.weight")
        checkpoint.release()
        assert np.array_equal(before.float().numpy(), arrays["emb.weight"])
        assert np.array_equal(checkpoint.array("head.weight"), arrays["head.weight"])


def test_where_pages_cannot_be_let_go_the_file_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "model.pth", "6")
    opened = []
    monkeypatch.setattr("webapp.weights.checkpoint.Checkpoint.release", lambda self: False)
    monkeypatch.setattr(deferred_weights, "HELD_BYTES", 5000)
    original = deferred_weights.open_official
    monkeypatch.setattr(deferred_weights, "open_official", lambda path: opened.append(path) or original(path))
    config = inspect(tmp_path / "model.pth").config
    model_loader.load_model(str(tmp_path / "model.pth"), config, "cpu fp32i8", lambda progress: None)
    assert 3 <= len(opened) <= 1 + 4 * deferred_weights.MOST_REOPENINGS


def test_a_load_cancelled_in_the_embedding_ends_there(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.pth", "6")

    def cancel(progress) -> None:
        if progress.done_tensors == 1:
            raise LoadCancelled()

    config = inspect(tmp_path / "model.pth").config
    with pytest.raises(LoadCancelled):
        model_loader.load_model(str(tmp_path / "model.pth"), config, "cpu fp32", cancel)


def test_a_half_precision_embedding_is_widened_row_by_row_in_fp32_alone(tmp_path: Path) -> None:
    for dtype, strategy, stays_narrow in (
        ("bfloat16", "cpu fp32", True),
        ("float16", "cpu fp32i8", True),
        ("float32", "cpu fp32", False),
        ("bfloat16", "cpu bf16", False),
    ):
        path = tmp_path / f"{dtype}.pth"
        write_checkpoint(path, "6", dtype=dtype)
        loaded = model_loader.load_model(str(path), inspect(path).config, strategy, lambda progress: None)
        assert isinstance(loaded.model.w["emb.weight"], EmbeddingRows) is stays_narrow
