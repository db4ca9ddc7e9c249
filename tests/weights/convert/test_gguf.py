"""GGUF files: names, shapes and keys as llama.cpp's loader requires, the same model inside, and the reverse
conversion."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.backends.parity import difference
from tests.engine.driving import forward, load_backend
from tests.reference.numpy_rwkv import NumpyRwkv
from tests.tokenizer.make_tokenizers import write_byte_level
from tests.weights.convert.test_ggml import needs_ggml
from tests.weights.make_checkpoints import Arrays, write_checkpoint, write_tensors
from webapp.errors import RoostError
from webapp.tokenizer import load_tokenizer
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.convert.conversion import convert
from webapp.weights.convert.ggml import CHAT_TEMPLATE
from webapp.weights.convert.plan import GGUF_TYPES, ConversionOptions
from webapp.weights.file_format import read_contents
from webapp.weights.inspection import chat_template, inspect, tokenizer_of

D, V, RANK, DECAY_RANK, HEADS, SIZE = 64, 300, 32, 64, 2, 32
HIDDEN = {"6": 224, "7": 256}
WANTED_OF_LAYER = {
    **{f"{norm}.{half}": (D,) for norm in ("attn_norm", "attn_norm_2", "time_mix_ln") for half in ("weight", "bias")},
    **{f"time_mix_{name}.weight": (D, D) for name in ("receptance", "key", "value", "output")},
}
WANTED = {
    "6": {
        "time_mix_w1.weight": (D, 5 * RANK),
        "time_mix_w2.weight": (RANK, D, 5),
        "time_mix_lerp_x.weight": (D,),
        "time_mix_lerp_fused.weight": (D, 1, 1, 5),
        "time_mix_first.weight": (SIZE, HEADS),
        "time_mix_decay.weight": (D,),
        "time_mix_decay_w1.weight": (D, DECAY_RANK),
        "time_mix_decay_w2.weight": (DECAY_RANK, D),
        "time_mix_gate.weight": (D, D),
        "channel_mix_lerp_k.weight": (D,),
        "channel_mix_lerp_r.weight": (D,),
        "channel_mix_receptance.weight": (D, D),
    },
    "7": {
        "time_mix_lerp_fused.weight": (D, 1, 1, 6),
        "channel_mix_lerp_k.weight": (D,),
        **{f"time_mix_{name}.weight": (D,) for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k")},
        **{f"time_mix_{x}1.weight": (D, RANK) for x in "wavg"},
        **{f"time_mix_{x}2.weight": (RANK, D) for x in "wavg"},
    },
}
"""``create_tensor`` calls of llama.cpp's src/models/rwkv6.cpp and rwkv7.cpp, which require exactly these tensors."""


def make_gguf(folder: Path, architecture: str, type_name: str, **options: object) -> tuple[Path, Arrays]:
    """From a model with its own vocabulary next to it."""
    sizes = {"n_embd": D, "head_size": SIZE, "vocab_size": V} | options
    weights = write_checkpoint(folder / "m.pth", architecture, **sizes)
    lines = [f"{byte + 1} {bytes([byte])!r} 1" for byte in range(256)]
    lines += ["257 'the' 3", '258 "it\'s" 4', "259 '\\n\\n' 2", "260 '你好' 6", "261 b'\\xe4\\xbd' 2"]
    (folder / "m.vocab.txt").write_text("\n".join(lines))
    convert(folder / "m.pth", folder / "m.gguf", "gguf", ConversionOptions(type=type_name))
    return folder / "m.gguf", weights


@pytest.mark.parametrize("architecture", WANTED)
def test_it_has_the_tensors_and_keys_that_llama_cpp_wants(architecture: str, tmp_path: Path) -> None:
    path, _ = make_gguf(tmp_path, architecture, "q5_1")
    contents, prefix = read_contents(path), f"rwkv{architecture}"
    wanted = {"token_embd.weight": (D, V), "output.weight": (D, V)}
    wanted |= {f"{name}.{half}": (D,) for name in ("token_embd_norm", "output_norm") for half in ("weight", "bias")}
    hidden = HIDDEN[architecture]
    layer = WANTED_OF_LAYER | WANTED[architecture]
    layer |= {"channel_mix_key.weight": (D, hidden), "channel_mix_value.weight": (hidden, D)}
    wanted |= {f"blk.{number}.{name}": shape for number in (0, 1) for name, shape in layer.items()}
    assert {name: stored.info.shape[::-1] for name, stored in contents.tensors.items()} == wanted
    dtypes = {name: stored.info.dtype for name, stored in contents.tensors.items()}
    assert (dtypes["token_embd.weight"], dtypes["output.weight"]) == ("q8_0", "q8_0")
    assert dtypes["blk.1.time_mix_key.weight"] == "q5_1" and dtypes["blk.1.time_mix_w1.weight"] == "float16"
    assert all(stored.offset % 32 == 0 for stored in contents.tensors.values())
    numbers = {"embedding_length": D, "block_count": 2, "feed_forward_length": hidden, "wkv.head_size": SIZE}
    numbers |= {"attention.head_count": 0, "context_length": 1048576}
    numbers |= {
        "6": {"time_mix_extra_dim": RANK, "time_decay_extra_dim": DECAY_RANK, "rescale_every_n_layers": 0},
        "7": {f"attention.{x}_lora_rank": RANK for x in ("decay", "iclr", "value_residual_mix", "gate")},
    }[architecture]
    told = contents.metadata
    assert {key: told.get(f"{prefix}.{key}") for key in numbers} == {key: str(value) for key, value in numbers.items()}
    assert told["general.architecture"] == prefix and told["general.file_type"] == "9"
    assert float(told[f"{prefix}.attention.layer_norm_epsilon"]) == pytest.approx(1e-5)
    assert told["tokenizer.ggml.model"] == "rwkv" and told["tokenizer.ggml.eot_token_id"] == "259"


@pytest.mark.parametrize("type_name", GGUF_TYPES)
@pytest.mark.parametrize("architecture", WANTED)
def test_it_is_the_same_model(architecture: str, type_name: str, tmp_path: Path) -> None:
    """Random weights exaggerate the error of quantisation."""
    needs_ggml()
    path, weights = make_gguf(tmp_path, architecture, type_name)
    ids = [5, 80, 3, 200]
    config = inspect(path).config
    assert config is not None
    expected = NumpyRwkv(config, weights).forward(ids)[0][-1]
    backend = load_backend(path, "rwkv.cpp")
    most = {"f32": 1e-5, "bf16": 0.02, "f16": 0.01, "q8_0": 0.2, "q5_1": 1, "q5_0": 1, "q4_1": 2, "q4_0": 2}[type_name]
    assert difference(forward(backend, [backend.new_slot()], [ids])[0], expected) < most
    backend.close()


@pytest.mark.parametrize(("type_name", "dtype"), [("f32", "float32"), ("f16", "float16"), ("bf16", "bfloat16")])
@pytest.mark.parametrize("architecture", WANTED)
def test_it_goes_back_to_the_same_values(architecture: str, type_name: str, dtype: str, tmp_path: Path) -> None:
    _, weights = make_gguf(tmp_path, architecture, type_name, dtype=dtype, v0_in_first_layer=False)
    for target, source in (("st", "m.pth"), ("st", "m.gguf"), ("pth", "m.gguf")):
        convert(tmp_path / source, tmp_path / f"{source}.{target}", target)
    with open_checkpoint(tmp_path / "m.gguf.pth") as again:
        assert {name: again.array(name).tolist() for name in again.names()} == {
            name: weights[name].reshape(again.array(name).shape).tolist() for name in weights
        }
    if dtype != "float32":
        once, there = read_contents(tmp_path / "m.pth.st"), read_contents(tmp_path / "m.gguf.st")
        files = [(tmp_path / f"{name}.st").read_bytes() for name in ("m.pth", "m.gguf")]
        for name, stored in once.tensors.items():
            other = there.tensors[name]
            assert stored.info == other.info
            assert files[0][stored.offset : stored.end] == files[1][other.offset : other.end], name
        assert once.tensors.keys() == there.tensors.keys()


def test_vocabulary_and_chat_template_are_those_in_the_file(tmp_path: Path) -> None:
    path, _ = make_gguf(tmp_path, "7", "f16")
    alone = tmp_path / "elsewhere" / "other.gguf"
    alone.parent.mkdir()
    shutil.copy(path, alone)
    original, found = load_tokenizer(V, tmp_path / "m.pth"), tokenizer_of(V, alone)
    text = "the cat, it's\n\n你好 你\\ <s> [PAD280]"
    assert found.encode(text) == original.encode(text) and found.decode(found.encode(text)) == text
    assert found.unassigned_ids() == original.unassigned_ids() and 257 in found.encode(text)
    assert chat_template(inspect(alone)) == CHAT_TEMPLATE
    convert(alone, tmp_path / "again.gguf", "gguf", ConversionOptions(type="f32"))
    assert tokenizer_of(V, tmp_path / "again.gguf").encode(text) == original.encode(text)
    data = path.read_bytes()
    for wrong in (data.replace(b"\\xff", b"\\xfe", 1), data.replace(b"token_type", b"token_tape"), data[:5000]):
        alone.write_bytes(wrong)
        try:
            assert tokenizer_of(V, alone).encode("the") == [257]  # types may be missing
        except RoostError as exc:
            assert exc.code in ("vocabulary_invalid", "file_truncated")


def test_the_world_vocabulary_is_in_memory_once(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.pth", "7", n_layer=1, n_embd=32, head_size=32, vocab_size=65536)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "gguf", ConversionOptions(type="q4_0"))
    assert tokenizer_of(65536, tmp_path / "m.gguf") is load_tokenizer(65536)
    assert inspect(tmp_path / "m.gguf").metadata["tokenizer.ggml.eot_token_id"] == "261"


def test_a_model_that_gguf_cannot_store_is_refused_with_an_alternative(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "four.pth", "4")
    write_checkpoint(tmp_path / "five.pth", "5.2")
    write_checkpoint(tmp_path / "state.pth", "7", time_state=True)
    weights = write_checkpoint(tmp_path / "ranks.pth", "7")
    weights |= {f"blocks.1.att.w{half}": weights[f"blocks.0.att.w{half}"][..., :16] for half in (1,)}
    weights["blocks.1.att.w2"] = weights["blocks.0.att.w2"][:16]
    write_tensors(tmp_path / "ranks.pth", weights)
    weights["blocks.1.att.w1"], weights["blocks.1.att.w2"] = (weights[f"blocks.0.att.w{half}"] for half in (1, 2))
    weights["head.weight"] = weights["head.weight"] * 1e9
    write_tensors(tmp_path / "large.pth", weights)
    (tmp_path / "hf").mkdir()
    size = write_byte_level(tmp_path / "hf" / "m.tokenizer.json")
    write_checkpoint(tmp_path / "hf" / "m.pth", "7", vocab_size=size)
    for name, type_name, key in (
        ("four.pth", "", "version_is_not_run_by_llama_cpp"),
        ("five.pth", "", "version_is_not_run_by_llama_cpp"),
        ("state.pth", "", "gguf_has_no_place_for_a_state"),
        ("ranks.pth", "", "ranks_differ_between_layers"),
        ("large.pth", "q8_0", "values_out_of_range"),
        ("hf/m.pth", "", "vocabulary_is_not_of_the_world_kind"),
        ("four.pth", "q9", "no_such_type"),
    ):
        with pytest.raises(RoostError) as caught:
            convert(tmp_path / name, tmp_path / "m.gguf", "gguf", ConversionOptions(type=type_name))
        assert caught.value.params["reason"].key == f"reason.weights.{key}"
    assert not list(tmp_path.glob("*.gguf"))


LLAMA_CPP = """
import json, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.verbosity = sys.argv[1], 256, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
count = int(sys.argv[2])
body = {"prompt": json.loads(sys.argv[3]), "n_predict": 1, "temperature": 0, "n_probs": count, "logprobs": count}
found = server.handle_completions(body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
print(json.dumps([[row["id"], row["logprob"], row["bytes"]] for row in found]))
"""


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="llama.cpp is missing: pip install xllamacpp")
@pytest.mark.parametrize("type_name", ("f32", "bf16", "q8_0", "q5_1"))
@pytest.mark.parametrize("architecture", WANTED)
def test_llama_cpp_loads_it_and_gives_the_logits(architecture: str, type_name: str, tmp_path: Path) -> None:
    """Log-probabilities of all tokens: in floats compared with the reference, in other types with this ggml."""
    # With AVX-512 its kernel for version 7 takes 64 numbers of a head at a time, as every real model has.
    path, weights = make_gguf(tmp_path, architecture, type_name, n_embd=128, head_size=64)
    ids = [5, 80, 3, 200]
    command = [sys.executable, "-c", LLAMA_CPP, str(path), str(V), json.dumps(ids)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    found = np.full(V, np.nan)
    found[[row[0] for row in rows]] = [row[1] for row in rows]
    vocabulary = tokenizer_of(V, path)
    assert all(bytes(text) == vocabulary.token_bytes(token) for token, _, text in rows if vocabulary.token_bytes(token))
    config = inspect(path).config
    assert config is not None
    if type_name in ("f32", "bf16"):
        logits = NumpyRwkv(config, weights).forward(ids)[0][-1]
    else:
        needs_ggml()
        backend = load_backend(path, "rwkv.cpp")
        logits = forward(backend, [backend.new_slot()], [ids])[0].astype(np.float64)
        backend.close()
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    print(f"\nllama.cpp, RWKV-{architecture} {type_name}: {difference(found, expected):.1e}")
    assert difference(found, expected) < {"f32": 1e-4, "bf16": 0.05}.get(type_name, 0.2)


def wrong_files(data: bytes) -> dict[str, bytes]:
    """Ways in which a .gguf of RWKV-7 in Q5_1 can be wrong."""
    contents_end = data.index(b"tokenizer.chat_template")
    found = {f"torn-{part}": data[: len(data) * part // 10] for part in range(1, 10)}
    found |= {"torn-by-1": data[:-33], "header-only": data[:24], "half-a-header": data[:15], "no-lists": data[:3000]}

    def patched(place: int, fresh: bytes) -> bytes:
        return data[:place] + fresh + data[place + len(fresh) :]

    found |= {"version-9": patched(4, struct.pack("<I", 9)), "tensors": patched(8, struct.pack("<Q", 2**40))}
    found |= {"keys": patched(16, struct.pack("<Q", 2**40)), "fewer-keys": patched(16, struct.pack("<Q", 3))}
    for key, value in (("block_count", 3), ("block_count", 10**6), ("embedding_length", 96), ("wkv.head_size", 0)):
        place = data.index(f"rwkv7.{key}".encode()) + len(f"rwkv7.{key}") + 4
        found[f"{key}-{value}"] = patched(place, struct.pack("<I", value))
    for name in (
        b"blk.1.time_mix_w2.weight",
        b"blk.1.channel_mix_key.weight",
        b"token_embd.weight",
        b"output_norm.bias",
    ):
        place = data.index(name, contents_end)
        word = name.decode()
        found[f"renamed-{word}"] = patched(place, b"x" * len(name))
        after = place + len(name)
        (dimensions,) = struct.unpack_from("<I", data, after)
        sizes = struct.unpack_from(f"<{dimensions}Q", data, after + 4)
        found[f"size-{word}"] = patched(after + 4, struct.pack("<Q", sizes[0] * 2))
        found[f"type-{word}"] = patched(after + 4 + 8 * dimensions, struct.pack("<I", 99))
        found[f"beyond-{word}"] = patched(after + 8 + 8 * dimensions, struct.pack("<Q", 2**50))
        if dimensions == 2:
            found[f"swapped-{word}"] = patched(after + 4, struct.pack("<2Q", *reversed(sizes)))
    found["llama"] = data.replace(b"rwkv7", b"llama", 1)
    found["arwkv7"] = data.replace(struct.pack("<Q", 5) + b"rwkv7", struct.pack("<Q", 6) + b"arwkv7", 1)
    return found


def test_no_wrong_gguf_ends_the_process(tmp_path: Path) -> None:
    needs_ggml()
    path, _ = make_gguf(tmp_path, "7", "q5_1")
    data, stored = path.read_bytes(), read_contents(path).tensors
    files = wrong_files(data)
    for name, fresh in (("blk.1.channel_mix_key.weight", b"\x00\x7e"), ("output_norm.weight", b"\x00\x00\xc0\x7f")):
        start = stored[name].offset
        files[f"nan-{name}"] = data[:start] + fresh + data[start + len(fresh) :]
    assert len(files) >= 40
    for name, wrong in files.items():
        (tmp_path / "w.gguf").write_bytes(wrong)
        with pytest.raises(RoostError) as caught:
            print(name)  # should none be raised
            found = inspect(tmp_path / "w.gguf")
            if found.config is None:
                assert found.kind in ("unknown", "model") and found.reason
                raise RoostError("not_a_model", path="", found="", way_out="")
            load_backend(tmp_path / "w.gguf", "rwkv.cpp").close()
        assert caught.value.code in ("file_error", "file_truncated", "not_a_model", "unknown_format"), name
