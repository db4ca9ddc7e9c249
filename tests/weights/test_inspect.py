"""inspect(): what a file is, only from its tensors and headers."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.errors import keys_in, raises_code
from tests.weights.make_checkpoints import ARCHITECTURES, make_tensors, write_checkpoint, write_state, write_tensors
from webapp.weights.inspection import USED_TOKENS_KEY, inspect, require_model, used_token_bitmap

FFN = {"4": 512, "7": 512}


def to_web_rwkv(arrays):
    """As RWKV-Runner's convert_safetensors.py does: names, transposes, and v5.1 widened to v5.2's shapes."""
    transposed = ("time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2", "time_state", "lora.0")
    transposed += ("w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2")
    out = {}
    for name, array in arrays.items():
        if ("time_decay" in name or "time_faaaa" in name) and array.ndim == 1 and "blocks.0.att.gate.weight" in arrays:
            array = np.repeat(array[:, None], 128 // array.shape[0], axis=1)
        for old, new in (("time_faaaa", "time_first"), ("time_maa", "time_mix"), ("lora_A", "lora.0")):
            name = name.replace(old, new)
        out[name.lower()] = array.swapaxes(-2, -1).copy() if any(word in name for word in transposed) else array
    return out


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_come_from_the_tensors(tmp_path, architecture, ending):
    path = tmp_path / f"misleading-name-RWKV-99B.{ending}"
    arrays = write_checkpoint(path, architecture, n_layer=3, head_size=32)

    found = inspect(path)

    config = found.config
    assert (found.format, found.kind, found.naming, found.tokenizer) == (ending, "model", "official", "byte")
    assert (config.architecture, config.n_layer, config.n_embd, config.n_att) == (architecture, 3, 128, 128)
    assert (config.n_ffn, config.vocab_size) == (FFN.get(architecture, 448), 256)
    assert (config.n_head, config.head_size) == ((0, 0) if architecture == "4" else (4, 32))
    assert found.parameters == sum(array.size for array in arrays.values())
    assert (found.dtype, found.size_bytes, found.has_time_state) == ("bfloat16", path.stat().st_size, False)
    assert {info.name: info.shape for info in found.tensors} == {name: a.shape for name, a in arrays.items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_and_bytes_of_each_tensor(tmp_path, dtype):
    write_checkpoint(tmp_path / "m.pth", "7", dtype=dtype)
    found = inspect(tmp_path / "m.pth")
    assert found.dtype == dtype
    assert sum(info.nbytes for info in found.tensors) == found.parameters * (4 if dtype == "float32" else 2)


def test_v7_with_and_without_the_unused_first_v0(tmp_path):
    for keep in (True, False):
        write_checkpoint(tmp_path / "m.pth", "7", v0_in_first_layer=keep)
        found = inspect(tmp_path / "m.pth")
        assert found.config.architecture == "7"
        assert ("blocks.0.att.v0" in {info.name for info in found.tensors}) is keep


def test_a_merged_state_is_seen(tmp_path):
    write_checkpoint(tmp_path / "m.pth", "6", time_state=True)
    found = inspect(tmp_path / "m.pth")
    assert (found.kind, found.has_time_state, found.config.architecture) == ("model", True, "6")


@pytest.mark.parametrize(
    "architecture, seen, naming",
    [
        ("4", "4", "official"),  # v4 has no renamed or transposed tensors
        ("5.1", "5.2", "web-rwkv"),
        ("5.2", "5.2", "web-rwkv"),
        ("6", "6", "web-rwkv"),
        ("7", "7", "web-rwkv"),
    ],
)
def test_web_rwkv_files_have_right_sizes(tmp_path, architecture, seen, naming):
    write_tensors(tmp_path / "m.st", to_web_rwkv(make_tensors(architecture)), "float16")
    found = inspect(tmp_path / "m.st")
    assert (found.config.architecture, found.naming) == (seen, naming)
    assert found.config.n_head == (0 if architecture == "4" else 2)
    assert (found.config.n_embd, found.config.n_ffn) == (128, FFN.get(architecture, 448))


def convert_as_the_package_does(path, strategy):
    """Runs the rwkv package's own conversion, in a separate process because it ends with exit(0)."""
    code = f"from rwkv.model import RWKV; RWKV({str(path)!r}, {strategy!r}, False, {str(path) + '-fast'!r})"
    environment = {"RWKV_JIT_ON": "0", "RWKV_V7_ON": "0", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    return path.with_name(path.name + "-fast.pth")


@pytest.mark.slow
@pytest.mark.parametrize("architecture, strategy", [("6", "cpu fp32i8")])
def test_a_file_converted_for_one_strategy(tmp_path, architecture, strategy):
    pytest.importorskip("rwkv")
    write_checkpoint(tmp_path / "m.pth", architecture)
    plain = inspect(tmp_path / "m.pth")

    found = inspect(convert_as_the_package_does(tmp_path / "m.pth", strategy))

    assert (found.converted_strategy, found.converted_version, found.naming) == (strategy, "0.7", "official")
    assert found.config == plain.config
    assert found.parameters == plain.parameters - 2 * 128  # ln0 is merged into the embedding
    assert found.dtype == "uint8"


@pytest.mark.parametrize("vocab_size, kind, tokenizer", [(128, "music", "abc"), (20096, "music", "midi")])
def test_music_models(tmp_path, vocab_size, kind, tokenizer):
    write_checkpoint(tmp_path / "m.pth", "6", vocab_size=vocab_size)
    found = inspect(tmp_path / "m.pth")
    assert (found.kind, found.tokenizer) == (kind, tokenizer)


@pytest.mark.parametrize("vocab_size, tokenizer", [(65536, "world"), (50277, "20b"), (999, "custom")])
def test_tokenizer_hint_by_vocabulary(tmp_path, vocab_size, tokenizer):
    write_checkpoint(tmp_path / "m.pth", "7", vocab_size=vocab_size, n_embd=8, head_size=4, n_layer=1)
    assert inspect(tmp_path / "m.pth").tokenizer == tokenizer


def test_a_state_file(tmp_path):
    write_state(tmp_path / "s.pth", n_layer=3)
    found = inspect(tmp_path / "s.pth")
    assert (found.kind, found.config, found.state_shape) == ("state", None, (3, 2, 64))
    with raises_code("not_a_model", key="reason.weights.state_file"):
        require_model(found)


@pytest.mark.parametrize("names", [("lora_A", "lora_B"), ("lora.0", "lora.1")])
def test_a_lora_file(tmp_path, names):
    arrays = {f"blocks.0.att.key.{name}": np.zeros((8, 8), np.float32) for name in names}
    write_tensors(tmp_path / "l.pth", arrays)
    found = inspect(tmp_path / "l.pth")
    assert (found.kind, found.config) == ("lora", None)
    with raises_code("not_a_model", key="reason.weights.lora"):
        require_model(found)


def test_a_file_of_another_project_says_why(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"model.layers.0.self_attn.q_proj.weight": np.zeros((4, 4), np.float32)})
    found = inspect(tmp_path / "x.safetensors")
    assert found.kind == "unknown" and keys_in(found.reason) == ["reason.weights.hugging_face_names"]
    with raises_code("not_a_model", key="reason.weights.hugging_face_names") as caught:
        require_model(found)
    assert keys_in(caught.value.params["way_out"]) == ["reason.weights.choose_rwkv_model"]


def test_a_missing_layer_is_named(tmp_path):
    arrays = {name: a for name, a in make_tensors("7", n_layer=3).items() if not name.startswith("blocks.1.")}
    write_tensors(tmp_path / "m.pth", arrays)
    found = inspect(tmp_path / "m.pth")
    assert found.kind == "unknown" and "blocks.1.att.key.weight" in str(found.reason)


def test_rwkv_cpp_header(tmp_path):
    sizes = [101, 65536, 768, 12, 8]
    (tmp_path / "m.bin").write_bytes(b"fmgg" + b"".join(n.to_bytes(4, "little") for n in sizes))
    found = inspect(tmp_path / "m.bin")
    assert (found.format, found.kind, found.dtype) == ("ggml-bin", "unknown", "Q5_1")
    assert found.metadata["n_embd"] == "768" and found.reason.key == "reason.weights.tensor_is_missing"
    with raises_code("not_a_model"):
        require_model(found)


def gguf(architecture):
    def text(value):
        return len(value).to_bytes(8, "little") + value.encode()

    counts = (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little")
    return b"GGUF" + counts + text("general.architecture") + (8).to_bytes(4, "little") + text(architecture) + bytes(200)


@pytest.mark.parametrize("architecture, kind", [("rwkv7", "unknown"), ("arwkv7", "model"), ("llama", "unknown")])
def test_gguf_header(tmp_path, architecture, kind):
    (tmp_path / "m.gguf").write_bytes(gguf(architecture))
    found = inspect(tmp_path / "m.gguf")
    assert (found.format, found.kind) == ("gguf", kind)
    assert found.metadata["general.architecture"] == architecture


def test_used_token_bitmap_from_the_metadata(tmp_path):
    bitmap = bytes([0b10]) + bytes(8191)
    text = base64.b64encode(bitmap).decode()
    write_tensors(tmp_path / "m.st", make_tensors("7"), metadata={USED_TOKENS_KEY: text})
    assert used_token_bitmap(inspect(tmp_path / "m.st")) == bitmap
    write_tensors(tmp_path / "m.st", make_tensors("7"))
    assert used_token_bitmap(inspect(tmp_path / "m.st")) is None


@pytest.mark.parametrize("text", ["@@@", base64.b64encode(b"short").decode()])
def test_a_damaged_bitmap_is_said(tmp_path, text):
    write_tensors(tmp_path / "m.st", make_tensors("7"), metadata={USED_TOKENS_KEY: text})
    with raises_code("file_error", name=USED_TOKENS_KEY):
        used_token_bitmap(inspect(tmp_path / "m.st"))


def test_the_dictionary_is_json(tmp_path):
    write_checkpoint(tmp_path / "m.st", "7")
    found = inspect(tmp_path / "m.st")
    data = json.loads(json.dumps(found.to_dict()))
    assert data["config"]["architecture"] == "7" and len(data["tensors"]) == len(found.tensors)
    assert "tensors" not in found.to_dict(tensors=False)


def test_inspecting_imports_no_torch_and_reads_little(tmp_path):
    write_checkpoint(tmp_path / "m.pth", "7")
    write_state(tmp_path / "s.pth")
    code = f"""
import sys
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.inspection import inspect
from webapp.weights.state_file import read_state_file
config = inspect({str(tmp_path / "m.pth")!r}).config
open_checkpoint({str(tmp_path / "m.pth")!r}).array("emb.weight")
read_state_file({str(tmp_path / "s.pth")!r}, config)
assert "torch" not in sys.modules and "safetensors" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
