"""Over sixty files that are not states of a v7 model with 3 layers of 2 heads of 16, each wrong in another way."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.weights.make_checkpoints import Arrays, make_time_state, write_checkpoint, write_tensors

TRACE = Path(tempfile.gettempdir(), f"roost-ran-foreign-code-{os.getpid()}")
LAYERS, HEADS, SIZE = 3, 2, 16
Write = Callable[[Path], object]


def name_of(layer: int) -> str:
    return f"blocks.{layer}.att.time_state"


def good() -> Arrays:
    return make_time_state(LAYERS, HEADS, SIZE)


def renamed(old: str, new: str) -> Arrays:
    return {name.replace(old, new): array for name, array in good().items()}


def without(*layers: int) -> Arrays:
    return {name: array for name, array in good().items() if name not in map(name_of, layers)}


def with_layer(layer: int, array: np.ndarray) -> Arrays:
    return good() | {name_of(layer): np.ascontiguousarray(array, np.float32)}


def with_value(layer: int, value: float) -> Arrays:
    array = good()[name_of(layer)].copy()
    array[1, 2, 3] = value
    return with_layer(layer, array)


def sized(n_layer: int, n_head: int, head_size: int) -> Arrays:
    return make_time_state(n_layer, n_head, head_size)


TENSORS: dict[str, Arrays] = {
    "one layer missing at the end": without(2),
    "one layer missing at the beginning": without(0),
    "one layer missing in the middle": without(1),
    "only one layer": without(1, 2),
    "no tensor at all": {},
    "one layer too many": sized(4, HEADS, SIZE),
    "twelve layers": sized(12, HEADS, SIZE),
    "layers counted from one": {f"blocks.{n + 1}.att.time_state": a for n, a in enumerate(good().values())},
    "a gap in the numbers": renamed("blocks.2.", "blocks.3."),
    "a number with a leading zero": renamed("blocks.2.", "blocks.02."),
    "a negative number": renamed("blocks.2.", "blocks.-1."),
    "attn for att": renamed(".att.", ".attn."),
    "timestate in one word": renamed("time_state", "timestate"),
    "capitals": renamed("blocks", "Blocks"),
    "a dot at the end": renamed("time_state", "time_state."),
    "one layer renamed": good() | {"blocks.1.att.state": good()[name_of(1)]},
    "a stranger among them": good() | {"head.weight": np.zeros((4, 4), np.float32)},
    "an optimiser's moments among them": good() | {"exp_avg": np.zeros(4, np.float32)},
    "four heads": sized(LAYERS, 4, SIZE),
    "one head": sized(LAYERS, 1, SIZE),
    "heads of eight": sized(LAYERS, HEADS, 8),
    "heads of sixty-four": sized(LAYERS, HEADS, 64),
    "heads and size exchanged": sized(LAYERS, SIZE, HEADS),
    "one layer of another size": with_layer(1, np.zeros((HEADS, 8, 8))),
    "one layer with more heads": with_layer(2, np.zeros((4, SIZE, SIZE))),
    "matrices that are not square": with_layer(0, np.zeros((HEADS, SIZE, 8))),
    "one flat layer": with_layer(1, np.zeros(HEADS * SIZE * SIZE)),
    "all layers flat": {name: a.reshape(-1) for name, a in good().items()},
    "heads folded into rows": {name: a.reshape(HEADS * SIZE, SIZE) for name, a in good().items()},
    "a batch of two": {name: np.stack([a, a]) for name, a in good().items()},
    "one number for a layer": with_layer(2, np.zeros(())),
    "an empty layer": with_layer(2, np.zeros((HEADS, 0, 0))),
    "NaN in the first layer": with_value(0, np.nan),
    "NaN in the last layer": with_value(2, np.nan),
    "plus infinity": with_value(1, np.inf),
    "minus infinity": with_value(1, -np.inf),
    "nothing but NaN": {name: np.full_like(a, np.nan) for name, a in good().items()},
    "a LoRA": {"blocks.0.att.key.lora_A": np.zeros((4, 8), np.float32)},
    "a LoRA in the other spelling": {"blocks.0.att.key.weight.lora.0": np.zeros((4, 8), np.float32)},
    "a state with a LoRA": good() | {"blocks.0.att.key.lora_B": np.zeros((4, 8), np.float32)},
    "a snapshot of a running state": {"att_kv": np.zeros((LAYERS, HEADS, SIZE, SIZE), np.float32)},
    "a list of numbered tensors": {str(n): a for n, a in enumerate(good().values())},
}

BYTES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "an empty file": ("s.pth", lambda: b""),
    "a page of HTML": ("s.pth", lambda: b"<!doctype html><title>404 Not Found</title>" * 9),
    "noise": ("s.safetensors", lambda: bytes(range(256)) * 40),
    "zeros": ("s.state", lambda: bytes(4096)),
    "a pickle that runs code": ("s.pth", lambda: pickle.dumps(Evil())),
    "code inside a zip": ("s.pth", lambda: zipped({"archive/data.pkl": pickle.dumps(Evil())})),
    "a zip of something else": ("s.pth", lambda: zipped({"readme.txt": b"hello"})),
    "a zip cut in half": ("s.pth", lambda: saved("s.pth")[: len(saved("s.pth")) // 2]),
    "a zip without its end": ("s.pth", lambda: saved("s.pth")[:-40]),
    "a header cut off": ("s.st", lambda: saved("s.st")[:60]),
    "data cut off": ("s.st", lambda: saved("s.st")[:-100]),
    "a header that claims the moon": ("s.st", lambda: struct.pack("<Q", 1 << 60) + b"{}"),
    "a header that is no JSON": ("s.st", lambda: struct.pack("<Q", 20) + b"not json at all here" + bytes(64)),
    "safetensors called .pth": ("s.pth", lambda: saved("s.st")),
    "torch called .safetensors": ("s.safetensors", lambda: saved("s.pth")),
}

MODELS = {
    "a v4 model": ("4", False),
    "a v6 model": ("6", False),
    "a v7 model": ("7", False),
    "a v7 model with this very state in it": ("7", True),
}


class Evil:
    """If torch.load of an old version unpickled it, it would create a file."""

    def __reduce__(self):
        return os.mkdir, (str(TRACE),)


def zipped(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def saved(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_tensors(Path(folder, name), good())
        return Path(folder, name).read_bytes()


def write_wrong(title: str, folder: Path) -> str:
    """Writes the file; returns its name."""
    if title in TENSORS:
        name = "s.pth" if len(title) % 2 else "s.safetensors"
        write_tensors(folder / name, TENSORS[title])
        return name
    if title in BYTES:
        name, make = BYTES[title]
        (folder / name).write_bytes(make())
        return name
    if title in MODELS:
        architecture, has_state = MODELS[title]
        sizes = {"n_layer": LAYERS, "n_embd": HEADS * SIZE, "head_size": SIZE}
        write_checkpoint(folder / "s.pth", architecture, **sizes, time_state=has_state)
        return "s.pth"
    return OTHERS[title](folder)


def _whole_numbers(folder: Path) -> str:
    write_tensors(folder / "s.pth", good(), "int32")
    return "s.pth"


def _truths(folder: Path) -> str:
    write_tensors(folder / "s.pth", good(), "bool")
    return "s.pth"


def _too_large_for_float32(folder: Path) -> str:
    arrays = {name: array.astype(np.float64) for name, array in good().items()}
    arrays[name_of(0)][0, 0, 0] = 1e300
    write_tensors(folder / "s.pth", arrays, "float64")
    return "s.pth"


def _of_v6_by_its_metadata(folder: Path) -> str:
    write_tensors(folder / "s.st", good(), metadata={"roost.architecture": "6"})
    return "s.st"


def _of_v6_by_its_name(folder: Path) -> str:
    write_tensors(folder / "rwkv-x060-poet-3B.pth", good())
    return "rwkv-x060-poet-3B.pth"


def _of_v5_by_its_name(folder: Path) -> str:
    write_tensors(folder / "RWKV-5-World-poet.pth", good())
    return "RWKV-5-World-poet.pth"


def _a_folder(folder: Path) -> str:
    (folder / "s.pth").mkdir()
    return "s.pth"


def _a_link_to_nowhere(folder: Path) -> str:
    (folder / "s.pth").symlink_to(folder / "gone.pth")
    return "s.pth"


OTHERS: dict[str, Callable[[Path], str]] = {
    "whole numbers": _whole_numbers,
    "truth values": _truths,
    "a double that float32 cannot hold": _too_large_for_float32,
    "a state of v6, by its metadata": _of_v6_by_its_metadata,
    "a state of v6, by its name": _of_v6_by_its_name,
    "a state of v5, by its name": _of_v5_by_its_name,
    "a folder": _a_folder,
    "a link to nowhere": _a_link_to_nowhere,
}

TITLES = [*TENSORS, *BYTES, *MODELS, *OTHERS]
