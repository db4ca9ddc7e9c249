"""Each way in which a file can be bad has its own error, and nothing in a file is ever run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from tests.errors import raises_code
from tests.weights.make_checkpoints import write_checkpoint, write_tensors
from tests.wording import text
from webapp.errors import FileMissing
from webapp.i18n.translation import catalogue
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.inspection import inspect


class RunsCode:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def write_zip(path, pickled, members=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in members:
            archive.writestr(f"archive/{name}", data)


def write_header(path, header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def pickle_int(number):
    return b"J" + number.to_bytes(4, "little", signed=True)


def test_missing(tmp_path):
    for name in ("nothing.pth", "nul\0byte.pth"):
        with pytest.raises(FileMissing):
            inspect(tmp_path / name)


def test_directory(tmp_path):
    with raises_code("file_is_directory"):
        inspect(tmp_path)


def test_empty(tmp_path):
    (tmp_path / "m.pth").touch()
    with raises_code("file_empty"):
        inspect(tmp_path / "m.pth")


def test_unreadable(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    write_checkpoint(tmp_path / "m.pth", "7")
    (tmp_path / "m.pth").chmod(0)
    with raises_code("file_unreadable", match="Permission"):
        inspect(tmp_path / "m.pth")


def test_unreadable_as_the_system_says_it(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "m.pth", "7")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    catalogue()  # read before open() is replaced
    monkeypatch.setattr("pathlib.Path.open", refuse)
    with raises_code("file_unreadable", match="Permission denied"):
        inspect(tmp_path / "m.pth")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.pth")
    with raises_code("file_unreadable", key="reason.weights.is_not_an_ordinary_file"):
        inspect(tmp_path / "m.pth")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("part", [0.999, 0.5, 0.1, 0.0001])
def test_torn_files(tmp_path, ending, part):
    path = tmp_path / f"m.{ending}"
    write_checkpoint(path, "7")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with raises_code("file_truncated"):
        inspect(path)


def test_a_storage_cut_short_inside_a_whole_zip(tmp_path):
    import torch

    torch.save({"emb.weight": torch.zeros(64)}, tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        pickled = archive.read("m/data.pkl")
    write_zip(tmp_path / "short.pth", pickled, [("data/0", bytes(100))])
    with raises_code("file_truncated", key="reason.weights.data_is_cut_off", expected=256, found=100):
        inspect(tmp_path / "short.pth")
    write_zip(tmp_path / "gone.pth", pickled)
    with raises_code("file_truncated", key="reason.weights.data_of_are_missing"):
        inspect(tmp_path / "gone.pth")
    write_zip(tmp_path / "packed.pth", pickled, [("data/0", bytes(256))], zipfile.ZIP_DEFLATED)
    with raises_code("file_error", key="reason.weights.member_compressed"):
        inspect(tmp_path / "packed.pth")


def test_a_zip_directory_that_promises_more_than_the_file_has(tmp_path):
    import torch

    torch.save({"emb.weight": torch.zeros(10_000)}, tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        pickled = archive.read("m/data.pkl")
    write_zip(tmp_path / "m.pth", pickled, [("data/0", bytes(256))])
    data = bytearray((tmp_path / "m.pth").read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = (40_000).to_bytes(4, "little") * 2  # compressed and plain size
    (tmp_path / "m.pth").write_bytes(data)
    with raises_code("file_truncated", key="reason.weights.member_ends_beyond_the_file"):
        inspect(tmp_path / "m.pth")


def test_a_zip_directory_with_a_damaged_name(tmp_path):
    path = tmp_path / "m.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é/data.pkl", pickle.dumps({}))
    content = path.read_bytes()
    path.write_bytes(content.replace("é".encode(), b"\xff\xfe"))
    with raises_code("file_truncated", key="reason.weights.no_zip_directory"):
        inspect(path)


@pytest.mark.parametrize(
    "entries",
    [{"blocks.0.att.w1": []}, {f"blocks.{'9' * 400}.att.key.weight": [0]}],
    ids=["a number for a matrix", "a layer of 400 digits"],
)
def test_tensors_no_one_would_write_are_described_all_the_same(tmp_path, entries):
    path = tmp_path / "m.safetensors"
    write_checkpoint(path, "7", n_layer=1, n_embd=64, vocab_size=256)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    odd = {
        name: {"dtype": "U8", "shape": shape, "data_offsets": [end, end + 1 - len(shape)]}
        for name, shape in entries.items()
    }
    write_header(path, header | odd, raw[8 + length :] + b"\0")
    assert inspect(path).config.n_layer == 1


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("in_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, in_zip, protocol):
    witness = tmp_path / "it-ran"
    pickled = pickle.dumps({"emb.weight": RunsCode(f"touch {witness}")}, protocol)
    path = tmp_path / "m.pth"
    write_zip(path, pickled) if in_zip else path.write_bytes(pickled)
    for read in (inspect, open_checkpoint):
        with raises_code("unsafe_pickle", match=r"posix\.system|nt\.system"):
            read(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}q\x00.junk"[:5],
        b"\x80\x02ctorch\nFloatStorage\n)R.",
    ],
    ids=["nothing", "cut", "cut late", "calls a marker"],
)
def test_damaged_pickles(tmp_path, pickled):
    write_zip(tmp_path / "m.pth", pickled)
    with raises_code("file_error", key="reason.weights.damaged_directory"):
        inspect(tmp_path / "m.pth")


@pytest.mark.parametrize(
    "shape, strides, offset",
    [((9,), (1,), 0), ((8,), (1,), 1), ((100, 8), (0, 1), 0), ((-8,), (1,), 0), ((8,), (1,), -1)],
)
def test_tensors_that_reach_beyond_their_storage(tmp_path, shape, strides, offset):
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x08tQ"
    sizes = b"".join(b"(" + b"".join(pickle_int(n) for n in numbers) + b"t" for numbers in (shape, strides))
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + pickle_int(offset) + sizes + b"\x89}tR"
    write_zip(tmp_path / "m.pth", b"\x80\x02}X\x01\0\0\0a" + tensor + b"s.", [("data/0", bytes(32))])
    with raises_code("file_error", key="reason.weights.damaged_directory"):
        inspect(tmp_path / "m.pth")


@pytest.mark.parametrize(
    "written, named, expected",
    [
        ("m.safetensors", "m.pth", ".safetensors"),
        ("m.pth", "m.safetensors", ".pth"),
        ("m.pth", "m", ".pth"),
        ("m.pth", "m.bin", ".pth"),
        ("m.pth", "m.gguf", ".pth"),
    ],
)
def test_wrong_extension(tmp_path, written, named, expected):
    write_checkpoint(tmp_path / written, "7")
    os.rename(tmp_path / written, tmp_path / named)
    with raises_code("wrong_extension") as caught:
        inspect(tmp_path / named)
    assert caught.value.hint == text("error.wrong_extension.hint", expected=expected)
    assert inspect(tmp_path / named, any_name=True).config.architecture == "7"


def test_unknown_content(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"<!DOCTYPE html><html>404</html>")
    write_zip(tmp_path / "b.pth", b"")
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    for name in ("a.pth", "c.pth"):
        with raises_code("unknown_format"):
            inspect(tmp_path / name)


@pytest.mark.parametrize(
    "header, key",
    [
        (b'{"a": ', "header_is_not_valid_json"),
        (b"{" + b"[" * 100_000, "header_is_not_valid_json"),
        ({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, "bad_header_entry"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "bad_header_entry"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, "byte_count_differs"),
        ({"a": 3}, "bad_header_entry"),
        ({"__metadata__": 3}, "metadata_is_not_a_table"),
    ],
)
def test_safetensors_headers_that_make_no_sense(tmp_path, header, key):
    write_header(tmp_path / "m.safetensors", header, bytes(8))
    with raises_code("file_error", key=f"reason.weights.{key}"):
        inspect(tmp_path / "m.safetensors")


def test_an_oversized_safetensors_header(tmp_path):
    (tmp_path / "m.safetensors").write_bytes((10**12).to_bytes(8, "little") + b'{"a": 1}')
    with raises_code("file_error", key="reason.weights.header_is_too_long", found=10**12):
        inspect(tmp_path / "m.safetensors")


def test_errors_have_their_order(tmp_path):
    """A truncated file with a wrong name is reported as truncated; a pickle with code is refused under any name."""
    write_tensors(tmp_path / "m.safetensors", {"a": np.zeros(100, np.float32)})
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.pth").write_bytes(data[:-1])
    with raises_code("file_truncated"):
        inspect(tmp_path / "m.pth")
    write_zip(tmp_path / "code.safetensors", pickle.dumps(RunsCode("true"), 2))
    with raises_code("unsafe_pickle"):
        inspect(tmp_path / "code.safetensors")


def test_inspecting_a_web_page_named_pth(tmp_path):
    (tmp_path / "short.pth").write_bytes(b"oops")
    with raises_code("file_truncated", key="reason.weights.only_bytes_are_there", found=4):
        inspect(tmp_path / "short.pth")
