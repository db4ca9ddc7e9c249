"""A file can only be described or refused: limited time and memory, no code is run, and no view exceeds its bytes."""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.errors import keys_in, raises_code
from tests.weights.hostile_files import HOSTILE, ODD, pth, table, tensor, text
from tests.weights.make_checkpoints import write_checkpoint
from webapp.errors import WeightsError
from webapp.weights.checkpoint import Checkpoint, open_checkpoint
from webapp.weights.file_format import read_contents
from webapp.weights.inspection import inspect
from webapp.weights.tensor_info import MAX_METADATA_CHARACTERS

PROGRAMS = [name for name in HOSTILE if name.startswith("a-program")] + ["bare-program.pth"]
LONGEST_S = 2.0
MAX_BYTES = 200 << 20


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_in_time_and_without_memory(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(HOSTILE[name]())
    begin = time.process_time()
    with pytest.raises(WeightsError) as caught:
        inspect(path)
    assert time.process_time() - begin < LONGEST_S
    assert (caught.value.code == "unsafe_pickle") == (name in PROGRAMS)


@pytest.mark.parametrize(
    "name", ["steps-without-end.pth", "list-copied-again-and-again.pth", "names-30000.safetensors"]
)
def test_memory_stays_in_bounds(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name]())
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError):
            inspect(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_described(tmp_path, name):
    (tmp_path / name).write_bytes(ODD[name]())
    found = inspect(tmp_path / name)
    assert found.kind == "unknown" and sum(map(len, found.metadata.values())) <= MAX_METADATA_CHARACTERS


def test_nothing_is_imported_because_a_file_names_it(tmp_path):
    (tmp_path / "m.pth").write_bytes(pth(table({"a": tensor(), "b": b"cthis\ns\n", "c": b"cantigravity\nfly\n)R"})))
    assert inspect(tmp_path / "m.pth").kind == "unknown"
    assert not {"this", "antigravity"} & set(sys.modules)


def test_harmless_extras_of_a_trainer_are_dropped(tmp_path):
    written = write_checkpoint(tmp_path / "m.pth", "7")
    tensors = {name: torch.from_numpy(array) for name, array in written.items()}
    extras = {
        "dtype": torch.bfloat16,
        "args": argparse.Namespace(lr=1e-4, layers=[1, 2]),
        "loss": np.float64(2.5),
        "curve": np.arange(5),
        "device": torch.device("cpu"),
        "seen": {1, 2},
        "optimizer": {0: {"exp_avg": 1}, "lr": 0.1},
        "step": 7,
    }
    torch.save(tensors | extras, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert sorted(checkpoint.names()) == sorted(written)
        assert checkpoint.metadata == {"step": "7"}
        np.testing.assert_array_equal(checkpoint.array("emb.weight"), written["emb.weight"])
    assert inspect(tmp_path / "m.pth").kind == "model"


@pytest.mark.parametrize("key", ["state_dict", "model", "anything"])
def test_the_one_table_of_tensors_is_taken_out_of_its_wrapper(tmp_path, key):
    written = write_checkpoint(tmp_path / "m.pth", "7", dtype="float32")
    tensors = OrderedDict((name, torch.from_numpy(array)) for name, array in written.items())
    torch.save({key: tensors, "epoch": 3, "optimizer": {"state": {0: {"a": torch.ones(1)}}}}, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert sorted(checkpoint.names()) == sorted(written) and checkpoint.metadata == {"epoch": "3"}
        np.testing.assert_array_equal(checkpoint.array("head.weight"), written["head.weight"])


def test_types_without_a_storage_class_are_read_alike_from_both_formats(tmp_path):
    from safetensors.torch import save_file

    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3).to(torch.float8_e4m3fn),
        "b": torch.arange(6, dtype=torch.int32).to(torch.uint16)[2:5],
    }
    torch.save(tensors, tmp_path / "m.pth")
    save_file({name: one.clone() for name, one in tensors.items()}, tmp_path / "m.st")
    for name in ("m.pth", "m.st"):
        with open_checkpoint(tmp_path / name) as checkpoint:
            assert [(info.shape, info.dtype) for info in map(checkpoint.info, ("a", "b"))] == [
                ((2, 3), "float8_e4m3fn"),
                ((3,), "uint16"),
            ]
            assert torch.equal(checkpoint.tensor("a").float(), tensors["a"].float())
            assert checkpoint.array("b").tolist() == [2, 3, 4]


def test_a_whole_program_object_is_named_with_a_way_out(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pth")
    told = {"key": "reason.weights.object_of_a_program", "name": "torch.nn.modules.linear.Linear"}
    with raises_code("not_a_model", **told) as caught:
        inspect(tmp_path / "m.pth")
    assert keys_in(caught.value.params["way_out"]) == ["reason.weights.save_weights_alone"]


@pytest.mark.parametrize(
    "change",
    [
        {"offset": -8},
        {"offset": 1 << 40},
        {"strides": (-128, 1)},
        {"strides": (1 << 40, 1)},
        {"strides": (1,)},
        {"end": 0},
        {"end": 1 << 50, "offset": 1 << 49},
    ],
    ids=str,
)
def test_a_view_is_checked_again_whatever_the_reader_said(tmp_path, change):
    write_checkpoint(tmp_path / "m.pth", "7", dtype="float32")
    contents = read_contents(tmp_path / "m.pth")
    wrong = replace(contents.tensors["emb.weight"], **change)
    with Checkpoint(tmp_path / "m.pth", replace(contents, tensors={"emb.weight": wrong})) as checkpoint:
        for read in (checkpoint.array, checkpoint.tensor):
            with pytest.raises((WeightsError, ValueError)):
                read("emb.weight")


def test_a_file_that_shrank_after_it_was_described_is_not_read_beyond_its_end(tmp_path):
    write_checkpoint(tmp_path / "m.pth", "7", dtype="float32")
    contents = read_contents(tmp_path / "m.pth")
    (tmp_path / "m.pth").write_bytes((tmp_path / "m.pth").read_bytes()[:5000])
    with Checkpoint(tmp_path / "m.pth", contents) as checkpoint, pytest.raises(WeightsError):
        checkpoint.array("head.weight")


def test_a_long_text_is_no_setting(tmp_path):
    (tmp_path / "m.pth").write_bytes(pth(table({"a": tensor(), "note": text("x" * 100_000), "version": text("0.8")})))
    assert inspect(tmp_path / "m.pth").metadata == {"version": "0.8"}
