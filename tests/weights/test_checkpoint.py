"""Checkpoint: the same values as torch and safetensors read, lazily and without copying."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.errors import raises_code
from tests.weights.make_checkpoints import write_checkpoint
from webapp.weights.checkpoint import open_checkpoint


@pytest.mark.parametrize("ending", ["pth", "st"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_arrays_and_tensors_hold_what_was_written(tmp_path, ending, dtype):
    path = tmp_path / f"m.{ending}"
    written = write_checkpoint(path, "6", dtype=dtype)
    with open_checkpoint(path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(written)
        for name, expected in written.items():
            info, array, tensor = checkpoint.info(name), checkpoint.array(name), checkpoint.tensor(name)
            assert (info.shape, info.dtype, tensor.dtype) == (expected.shape, dtype, getattr(torch, dtype))
            np.testing.assert_array_equal(array.astype(np.float32), expected)
            np.testing.assert_array_equal(tensor.float().numpy(), expected)
            assert array.dtype == (np.float16 if dtype == "float16" else np.float32)
            assert not array.flags.writeable


def test_views_keep_their_strides(tmp_path):
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    saved = {"turned": base.t(), "slice": base[1:3, 2:9:3], "empty": torch.zeros(0, 3), "one": torch.tensor(7.0)}
    saved["bf16"] = base.to(torch.bfloat16).t()
    saved["ints"] = torch.arange(5, dtype=torch.int64)[2:]
    torch.save(saved, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        for name, expected in saved.items():
            assert torch.equal(checkpoint.tensor(name), expected)
            assert checkpoint.tensor(name).stride() == expected.stride() or expected.numel() == 0
            np.testing.assert_array_equal(checkpoint.array(name), expected.float().numpy())


def test_ordered_dict_parameters_and_scalars(tmp_path):
    module = torch.nn.Linear(3, 2)
    state = module.state_dict(keep_vars=True)
    state["_strategy"] = "cpu fp32"
    state["_rescale_layer"] = 0
    torch.save(state, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert checkpoint.names() == ["weight", "bias"]
        assert checkpoint.metadata == {"_strategy": "cpu fp32", "_rescale_layer": "0"}
        np.testing.assert_array_equal(checkpoint.array("bias"), module.bias.detach().numpy())


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    write_checkpoint(tmp_path / "m.pth", "7", dtype="float32")
    before = (tmp_path / "m.pth").read_bytes()
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        checkpoint.tensor("emb.weight").zero_()
    assert (tmp_path / "m.pth").read_bytes() == before


def test_arrays_outlive_the_checkpoint(tmp_path):
    written = write_checkpoint(tmp_path / "m.pth", "7", dtype="float32")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        array, tensor = checkpoint.array("head.weight"), checkpoint.tensor("head.weight")
    np.testing.assert_array_equal(array, written["head.weight"])
    np.testing.assert_array_equal(tensor.numpy(), written["head.weight"])
    with pytest.raises(ValueError, match="closed"):
        checkpoint.array("head.weight")
    checkpoint.close()


def test_unknown_names_and_unreadable_formats(tmp_path):
    write_checkpoint(tmp_path / "m.pth", "7")
    with (
        open_checkpoint(tmp_path / "m.pth") as checkpoint,
        raises_code("file_error", key="reason.weights.no_tensor_in_it", name="x.y"),
    ):
        checkpoint.array("x.y")
    (tmp_path / "m.bin").write_bytes(b"fmgg" + (1).to_bytes(4, "little") * 5 + bytes(40))
    with raises_code("file_error", key="reason.weights.unknown_rwkv_cpp_version", found=1):
        open_checkpoint(tmp_path / "m.bin")
    (tmp_path / "m.txt").write_text("only some text, no model")
    with raises_code("unknown_format"):
        open_checkpoint(tmp_path / "m.txt")
