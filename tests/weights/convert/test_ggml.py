"""rwkv.cpp's files: written, read, and wrong in every possible way."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.backends.parity import difference
from tests.backends.test_rwkvcpp_models import FOLDER
from tests.engine.driving import forward, load_backend
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.weights.make_checkpoints import write_checkpoint
from webapp.backends.ggml.backend import GgmlBackend
from webapp.engine.registry import runnable
from webapp.errors import RoostError
from webapp.weights import ggml_model
from webapp.weights.convert.conversion import convert
from webapp.weights.convert.plan import BIN_TYPES, ConversionOptions, conversion_to
from webapp.weights.file_format import read_contents
from webapp.weights.ggml_blocks import quantize
from webapp.weights.inspection import inspect

ARCHITECTURES = ("4", "5.0", "5.1", "5.2", "6", "7")


def make_bin(folder: Path, architecture: str, type_name: str, **options: object) -> tuple[Path, dict[str, np.ndarray]]:
    weights = write_checkpoint(folder / "m.pth", architecture, **options)
    convert(folder / "m.pth", folder / "m.bin", "bin", ConversionOptions(type=type_name))
    return folder / "m.bin", weights


def needs_ggml() -> None:
    found = GgmlBackend.availability()
    if not found.is_available:
        pytest.skip(f"ggml: {found.reason}; {found.way_out}")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_bin_computes_what_the_model_computes_and_can_be_made_a_pth_again(architecture: str, tmp_path: Path) -> None:
    path, weights = make_bin(tmp_path, architecture, "f32")
    found = inspect(path)
    expected = "5.2" if architecture == "5.1" else architecture
    assert found.kind == "model" and found.config is not None and found.config.architecture == expected
    convert(path, tmp_path / "again.pth", "pth")
    again = inspect(tmp_path / "again.pth")
    assert again.config == found.config
    ids = [5, 80, 3, 200]
    original = inspect(tmp_path / "m.pth").config
    assert original is not None
    logits = NumpyRwkv(original, weights).forward(ids)[0][-1]
    for each, strategy in ((path, "rwkv.cpp"), (tmp_path / "again.pth", "cpu fp32")):
        if strategy == "rwkv.cpp":
            needs_ggml()
        backend = load_backend(each, strategy)
        assert difference(forward(backend, [backend.new_slot()], [ids])[0], logits) < 2e-3
        backend.close()


@pytest.mark.parametrize("type_name", BIN_TYPES)
@pytest.mark.parametrize("architecture", ("5.2", "6", "7"))
def test_a_model_converted_while_it_is_loaded_is_the_one_converted_beforehand(
    architecture: str, type_name: str, tmp_path: Path
) -> None:
    """One uses ggml's own quantiser, the other numpy; only exponentials may round differently."""
    needs_ggml()
    path, _ = make_bin(tmp_path, architecture, type_name, n_layer=1)
    rows = []
    for each, strategy in ((path, "rwkv.cpp"), (tmp_path / "m.pth", f"rwkv.cpp {type_name}")):
        backend = load_backend(each, strategy)
        rows.append(forward(backend, [backend.new_slot()], [[5, 80, 3]])[0])
        backend.close()
    assert difference(*rows) <= (1e-4 if architecture == "5.2" else 0)


@pytest.mark.fixtures
@pytest.mark.skipif(not FOLDER.is_dir(), reason="rwkv.cpp's models are not in ../shared (set ROOST_SHARED)")
@pytest.mark.parametrize("name", ("4v0-660K", "5v1-730K", "5v2-730K", "7v0-834K"))
def test_the_bytes_are_those_of_rwkv_cpps_own_quantiser(name: str) -> None:
    """It made its Q5_1 file from its FP32 file, with the same tensors in the same order."""
    paths = [FOLDER / f"tiny-rwkv-{name}-{kind}.bin" for kind in ("FP32", "Q5_1")]
    (exact, data), (theirs, other) = ((read_contents(path).tensors, path.read_bytes()) for path in paths)
    assert list(exact) == list(theirs)
    compared = 0
    for tensor, stored in theirs.items():
        if stored.info.dtype == "q5_1":
            compared += 1
            values = np.frombuffer(data[exact[tensor].offset : exact[tensor].end], np.float32)
            made = quantize(values.reshape(stored.info.shape), "q5_1").tobytes()
            assert made == other[stored.offset : stored.end], tensor
    assert compared


def test_the_initial_state_of_a_model_is_converted_too(tmp_path: Path) -> None:
    needs_ggml()
    path, weights = make_bin(tmp_path, "7", "f32", time_state=True)
    backend = load_backend(path, "rwkv.cpp")
    start = backend.read_state(backend.new_slot()).arrays["att_kv"]
    assert np.array_equal(start[1], weights["blocks.1.att.time_state"])
    backend.close()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.pth", "7", n_embd=48, head_size=16)
    for options in (ConversionOptions(type="q5_1"), ConversionOptions(type="q9")):
        with pytest.raises(RoostError) as caught:
            convert(tmp_path / "m.pth", tmp_path / "m.bin", "bin", options)
        assert caught.value.code == "conversion_refused"
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize(("spelled", "dtype"), [("Q5_1", "q5_1"), ("FP16", "float16"), ("fp32", "float32")])
def test_types_are_spelled_as_in_the_manual_too(spelled: str, dtype: str) -> None:
    assert conversion_to("bin").dtype(ConversionOptions(type=spelled), "m.pth") == dtype


def test_another_backend_refuses_it_and_names_the_one_that_reads_it(tmp_path: Path) -> None:
    path, _ = make_bin(tmp_path, "7", "f16")
    for strategy in ("cpu fp32", "native q8"):
        with pytest.raises(RoostError) as caught:
            runnable(inspect(path), strategy)
        assert "rwkv.cpp" in caught.value.hint or caught.value.code == "backend_unavailable"


def wrong_files(data: bytes) -> dict[str, bytes]:
    """Ways in which a .bin can be wrong."""
    header = list(struct.unpack("<6I", data[:24]))

    def with_header(place: int, value: int) -> bytes:
        changed = list(header)
        changed[place] = value
        return struct.pack("<6I", *changed) + data[24:]

    found = {f"torn-{part}": data[: len(data) * part // 10] for part in range(1, 10)}
    found |= {f"torn-by-{count}": data[:-count] for count in (1, 2, 33)}
    found |= {f"header-{place}-{value}": with_header(place, value) for place in (3, 4) for value in (1, 96, 2**20)}
    found |= {"version-99": with_header(1, 99), "version-100-quantised": with_header(1, 100)}
    found |= {"no-layers": with_header(4, 0), "more-layers": with_header(4, 3), "vocabulary": with_header(2, 2**25)}
    found |= {"header-only": data[:24], "half-a-header": data[:15], "rubbish-after": data + b"\x07" * 40}
    for name in (b"blocks.1.att.w2", b"ffn.key.weight", b"emb.weight", b"blocks.0.att.r_k", b"ln_out.bias"):
        at = data.index(name)
        word = name.decode().rpartition(".")[0] or "x"
        found[f"renamed-{word}-{name[-3:].decode()}"] = data[:at] + b"X" + data[at + 1 :]
        found[f"size-{word}-{name[-3:].decode()}"] = data[: at - 4] + struct.pack("<I", 32) + data[at:]
        found[f"huge-{word}-{name[-3:].decode()}"] = data[: at - 4] + struct.pack("<I", 2**31) + data[at:]
        found[f"zero-{word}-{name[-3:].decode()}"] = data[: at - 4] + bytes(4) + data[at:]
    at = data.index(b"blocks.1.ffn.key.weight")
    rows, columns = struct.unpack("<2I", data[at - 8 : at])
    found["swapped"] = data[: at - 8] + struct.pack("<2I", columns, rows) + data[at:]
    start = at + len(b"blocks.1.ffn.key.weight")
    found["nan-scale"] = data[:start] + b"\x00\x7e" + data[start + 2 :]
    found["infinite-minimum"] = data[: start + 2] + b"\x00\x7c" + data[start + 4 :]
    at = data.index(b"ln_out.weight") + len(b"ln_out.weight")
    found["nan-vector"] = data[:at] + struct.pack("<f", float("nan")) + data[at + 4 :]
    return found


def test_no_wrong_file_ends_the_process(tmp_path: Path) -> None:
    needs_ggml()
    path, _ = make_bin(tmp_path, "7", "q5_1", n_embd=64, head_size=32)
    files = wrong_files(path.read_bytes())
    assert len(files) >= 40
    for name, data in files.items():
        wrong = tmp_path / f"{name}.bin"
        wrong.write_bytes(data)
        with pytest.raises(RoostError) as caught:
            print(name)  # should none be raised
            found = inspect(wrong)
            if found.config is None:
                assert found.kind == "unknown" and found.reason
                raise RoostError("not_a_model", path="", found="", way_out="")
            load_backend(wrong, "rwkv.cpp").close()
        assert caught.value.code in ("file_error", "file_truncated", "not_a_model", "unknown_format"), name
        os.remove(wrong)


GGUF_TYPES = {"float32": 0, "float16": 1, "q5_1": 7}
BACK = {name: gguf for gguf, name in ggml_model.GGUF_NAMES.items()}


def as_gguf(path: Path, target: Path) -> None:
    """The tensors of a .bin with llama.cpp's names and keys; v6's five shifts separately."""
    contents, data = read_contents(path), path.read_bytes()
    config = inspect(path).config
    assert config is not None
    prefix = f"rwkv{config.architecture}"
    more = ggml_model.GGUF_V6_NAMES if config.major == 6 else ggml_model.GGUF_V7_NAMES
    layer_names = ggml_model.GGUF_LAYER_NAMES | more
    layers = {name: gguf for gguf, name in layer_names.items()}
    numbers = {"embedding_length": config.n_embd, "block_count": config.n_layer, "wkv.head_size": config.head_size}
    text = lambda value: struct.pack("<Q", len(value)) + value.encode()  # noqa: E731
    keys = text("general.architecture") + struct.pack("<I", 8) + text(prefix)
    keys += b"".join(text(f"{prefix}.{key}") + struct.pack("<II", 4, value) for key, value in numbers.items())
    table, body = b"", b""
    for name, stored in contents.tensors.items():
        _, layer, rest = (*name.split(".", 2), "", "")[:3]
        gguf = BACK.get(name) or f"blk.{layer}.{layers[rest]}"
        table += text(gguf) + struct.pack("<I", len(stored.info.shape))
        table += struct.pack(f"<{len(stored.info.shape)}Q", *reversed(stored.info.shape))
        table += struct.pack("<IQ", GGUF_TYPES[stored.info.dtype], len(body))
        body += data[stored.offset : stored.end] + bytes(-stored.info.nbytes % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(contents.tensors), 1 + len(numbers)) + keys + table
    target.write_bytes(head + bytes(-len(head) % 32) + body)


@pytest.mark.parametrize("type_name", ("f32", "q5_1"))
@pytest.mark.parametrize("architecture", ("6", "7"))
def test_a_gguf_gives_the_logits_of_the_bin_with_its_tensors(architecture: str, type_name: str, tmp_path: Path) -> None:
    needs_ggml()
    path, _ = make_bin(tmp_path, architecture, type_name)
    as_gguf(path, tmp_path / "m.gguf")
    found = inspect(tmp_path / "m.gguf")
    assert (found.kind, found.config) == ("model", inspect(path).config)
    rows = []
    for each in (path, tmp_path / "m.gguf"):
        backend = load_backend(each, "rwkv.cpp")
        rows.append(forward(backend, [backend.new_slot()], [[5, 80, 3]])[0])
        backend.close()
    assert difference(*rows) == 0
    convert(tmp_path / "m.gguf", tmp_path / "again.pth", "pth")
    assert inspect(tmp_path / "again.pth").config == found.config
    data = (tmp_path / "m.gguf").read_bytes()
    for name, wrong in {
        "torn": data[: len(data) // 2],
        "torn-table": data[:900],
        "llama": data.replace(b"rwkv" + architecture.encode(), b"llama", 1),
        "layers": data.replace(struct.pack("<II", 4, 2), struct.pack("<II", 4, 3), 1),
        "no-such-type": data.replace(struct.pack("<I", 2) + struct.pack("<QQ", 128, 256), bytes(20), 1),
        "another-name": data.replace(b"output_norm.bias", b"output_norm.bios"),
    }.items():
        (tmp_path / "w.gguf").write_bytes(wrong)
        with pytest.raises(RoostError):
            print(name)
            if inspect(tmp_path / "w.gguf").config is None:
                raise RoostError("not_a_model", path="", found="", way_out="")
            load_backend(tmp_path / "w.gguf", "rwkv.cpp")
